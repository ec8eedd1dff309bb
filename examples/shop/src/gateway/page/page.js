"use strict";
// Draws what the instances say on /live, and runs the buttons. Each button says before what should be seen, and after
// whether it was.

const SERVICES = ["gateway", "user", "product", "inventory", "order", "payment", "recommendation"];
const byId = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const PATIENCE = 10000;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const text = await response.text();
  let answer = text;
  try { answer = JSON.parse(text); } catch { /* Some answers are no JSON. */ }
  return { ok: response.ok, status: response.status, answer, headers: response.headers };
}

const get = (path) => ask("GET", path);
const post = (path, body) => ask("POST", path, body);

/** Looks until the condition holds. Returns the milliseconds, or null if it never did. */
async function until(condition, patience = PATIENCE) {
  const began = performance.now();
  while (performance.now() - began < patience) {
    if (await condition()) return Math.round(performance.now() - began);
    await wait(20);
  }
  return null;
}

// The picture.

const places = new Map();
const picture = byId("picture");

function layOut(reports) {
  picture.replaceChildren();
  places.clear();
  places.set("clients", { x: 450, y: 22 });
  places.set("redis", { x: 450, y: 365 });
  const counts = Map.groupBy(reports, (report) => report.service);
  const spot = (service, n, x, y) => {
    places.set(`${service} ${n}`, { x, y });
    places.set(`database of ${service}`, { x: x, y: y + 95 });
  };
  const gateways = (counts.get("gateway") ?? []).length;
  for (let n = 0; n < gateways; n++) spot("gateway", n, 450 + (n - (gateways - 1) / 2) * 130, 90);
  const inner = SERVICES.slice(1);
  inner.forEach((service, column) => {
    const many = (counts.get(service) ?? []).length;
    const x = 75 + column * 150;
    for (let n = 0; n < many; n++) {
      const width = 132 / many;
      spot(service, n, x + (n - (many - 1) / 2) * width, 180);
    }
    places.set(`database of ${service}`, { x, y: 262 });
  });
  const link = (a, b) => picture.append(drawn("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y }));
  for (const report of reports) {
    const here = places.get(`${report.service} ${report.instance}`);
    link(here, report.service === "gateway" ? places.get("clients") : places.get(`database of ${report.service}`));
  }
  const label = (at, text, small) => picture.append(drawn("text", { x: at.x, y: at.y + 4, class: small ? "small" : "" }, text));
  const box = (key, width, text, small) => {
    const at = places.get(key);
    const group = drawn("g", { "data-place": key });
    group.append(drawn("rect", { x: at.x - width / 2, y: at.y - 17, width, height: 34, rx: 6 }));
    group.append(drawn("text", { x: at.x, y: at.y + 4, class: small ? "small" : "" }, text));
    picture.append(group);
  };
  for (const report of reports) {
    const many = counts.get(report.service).length;
    const width = report.service === "gateway" ? 110 : Math.min(120, 132 / many - 4);
    const text = many > 1 && report.service !== "gateway" ? `${report.instance + 1}` : report.service;
    box(`${report.service} ${report.instance}`, width, text, many > 1);
  }
  inner.forEach((service, column) => {
    if ((counts.get(service) ?? []).length > 1) label({ x: 75 + column * 150, y: 150 }, service);
    const at = places.get(`database of ${service}`);
    picture.append(drawn("ellipse", { cx: at.x, cy: at.y, rx: 42, ry: 15 }));
    label(at, "database", true);
  });
  box("redis", 180, "Redis: L2");
  label(places.get("clients"), "clients");
}

let moving = 0;
function move(from, to, kind) {
  const [a, b] = [places.get(from), places.get(to)];
  if (!a || !b || moving > 60 || document.hidden) return;
  moving += 1;
  const dot = drawn("circle", { r: 5, class: `fill-${kind} moving` });
  picture.append(dot);
  const began = performance.now();
  const step = (now) => {
    const share = Math.min(1, (now - began) / 500);
    dot.setAttribute("cx", a.x + (b.x - a.x) * share);
    dot.setAttribute("cy", a.y + (b.y - a.y) * share);
    if (share < 1) requestAnimationFrame(step);
    else { dot.remove(); moving -= 1; }
  };
  requestAnimationFrame(step);
}

// Events.

const story = new Map();

function happened({ service, instance, event }) {
  const here = `${service} ${instance}`;
  const { kind, is_own: isOwn } = event;
  if (kind === "loaded" || kind === "failed") {
    // The gateway has no database: it asks the services.
    const from = service === "gateway" ? ["product 0", "inventory 0", "recommendation 0"] : [`database of ${service}`];
    for (const one of from) move(one, here, "load");
  } else if (kind === "inserted") {
    if (isOwn) move(here, "redis", "store"); else move("redis", here, "store");
  } else if (kind === "invalidated" || kind === "tag" || kind === "cleared") {
    if (isOwn) move(here, "redis", "gone"); else move("redis", here, "gone");
  }
  const who = isOwn ? `${here}` : `${here} hears`;
  const line = `${new Date().toLocaleTimeString()} ${who}: ${kind} ${event.what} (${event.cache})`;
  const list = byId("events");
  list.prepend(element("li", {}, line));
  while (list.children.length > 5) list.lastChild.remove();
  const key = `${event.cache} ${event.what}`;
  const lines = story.get(key) ?? [];
  lines.unshift(line);
  story.set(key, lines.slice(0, 20));
  if (story.size > 5000) story.delete(story.keys().next().value);
}

// Reports.

let last = new Map();
const shares = new Map();
let latest = [];

function sums(report) {
  const sum = (name) => report.caches.reduce((all, cache) => all + (cache.stats[name] ?? 0), 0);
  return {
    at: performance.now(), requests: report.requests, queries: report.queries, l1: sum("l1_hits"), l2: sum("l2_hits"),
    loads: sum("loads"), stale: sum("stale_served"), fallbacks: sum("fallbacks_served"), misses: sum("l2_misses"),
  };
}

function stateOf(report) {
  if (report.is_down) return ["does not answer", "bad"];
  if (report.is_broken) return ["its database is broken", "bad"];
  if (report.caches.some((cache) => cache.is_breaker_open)) return ["breaker open: Redis is not asked", "bad"];
  if (report.caches.some((cache) => !cache.is_l2_up)) return ["Redis is away", "bad"];
  if (report.caches.some((cache) => !cache.is_enabled)) return ["caches switched off", "bad"];
  if (report.slowed_by > 0) return [`its database is ${report.slowed_by} ms slower`, "bad"];
  return ["well", "good"];
}

function show(reports) {
  const names = (all) => all.map((report) => `${report.service} ${report.instance}`).join();
  if (names(reports) !== names(latest)) layOut(reports);
  latest = reports;
  const rows = reports.map((report) => {
    const name = `${report.service} ${report.instance}`;
    const now = sums(report);
    const before = last.get(name) ?? now;
    last.set(name, now);
    const seconds = Math.max(0.2, (now.at - before.at) / 1000);
    const rate = (of) => Math.max(0, (now[of] - before[of]) / seconds);
    const looked = rate("l1") + rate("l2") + rate("loads");
    const seen = shares.get(name) ?? [];
    seen.push(looked > 0 ? rate("l1") / looked : null);
    shares.set(name, seen.slice(-120));
    for (let n = 0; n < Math.min(4, rate("requests")); n++) {
      if (report.service === "gateway") setTimeout(() => move("clients", name, "request"), n * 200);
    }
    const [text, kind] = stateOf(report);
    const group = picture.querySelector(`[data-place="${name}"]`);
    group?.classList.toggle("down", report.is_down);
    group?.classList.toggle("open", !report.is_down && kind === "bad");
    const cells = report.is_down ? Array(9).fill("") : [
      rate("requests").toFixed(0), `${(report.p50_us / 1000).toFixed(2)} ms`, `${(report.p99_us / 1000).toFixed(2)} ms`,
      ...["l1", "l2", "loads", "stale", "fallbacks", "queries"].map((of) => rate(of).toFixed(0)),
    ];
    const canvas = element("canvas", { width: 120, height: 18 });
    const drawing = canvas.getContext("2d");
    drawing.fillStyle = getComputedStyle(document.body).getPropertyValue("--store");
    shares.get(name).forEach((share, x) => {
      if (share !== null) drawing.fillRect(x, 18 - share * 18, 1, share * 18);
    });
    return element("tr", {}, element("td", {}, name), ...cells.map((cell) => element("td", {}, cell)),
      element("td", {}, canvas), element("td", { class: kind }, text));
  });
  byId("figures").tBodies[0].replaceChildren(...rows);
  const down = reports.filter((report) => report.is_down).length;
  byId("state").textContent = `${reports.length - down} of ${reports.length} instances answer`;
  const hot = reports.flatMap((report) => report.caches.flatMap((cache) =>
    (cache.hot_keys ?? []).map((key) => ({ ...key, cache: cache.namespace, where: `${report.service} ${report.instance}` }))));
  hot.sort((a, b) => b.share - a.share);
  byId("hotkeys").tBodies[0].replaceChildren(...hot.slice(0, 8).map((key) => element("tr", {},
    element("td", {}, `${key.cache} ${key.key}`), element("td", {}, `${(100 * key.share).toFixed(1)} %`), element("td", {}, key.where))));
  const caches = [...new Set(reports.flatMap((report) => report.caches.map((cache) => cache.namespace)))].sort();
  const select = document.forms.key.elements.cache;
  if (caches.length !== select.options.length) {
    const chosen = select.value || "shop:product";
    select.replaceChildren(...caches.map((cache) => element("option", {}, cache)));
    select.value = chosen;
  }
}

function listen() {
  const live = new EventSource("/live");
  live.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.kind === "reports") show(message.reports);
    else happened(message);
  };
  live.onerror = () => { byId("state").textContent = "this gateway does not answer; trying again …"; };
}

// A product page.

function how(piece) {
  if (piece.missing) return `missing: ${piece.missing}`;
  const age = piece.how.age_ms < 1000 ? `${piece.how.age_ms} ms` : `${(piece.how.age_ms / 1000).toFixed(1)} s`;
  return `${piece.how.is_old ? "old, " : ""}${piece.how.from}, ${age}`;
}

async function showProduct(id) {
  const began = performance.now();
  const { ok, answer, headers } = await get(`/products/${id}`);
  const took = (performance.now() - began).toFixed(1);
  if (!ok) return byId("shown").replaceChildren(answer.error ?? "it did not answer");
  const lines = [
    ["name", answer.product.value?.name, answer.product], ["price", answer.price_shown, answer.price],
    ["in stock", answer.stock.value, answer.stock],
    ["bought together", answer.together.value?.join(", "), answer.together],
    ["reviews", answer.reviews.value?.map((review) => "★".repeat(review.stars)).join(" "), answer.reviews],
  ];
  const list = element("dl");
  for (const [name, value, piece] of lines) {
    list.append(element("dt", {}, name), element("dd", {}, `${value ?? "–"}`), element("dd", { class: "how" }, how(piece)));
  }
  const page = headers.get("x-cache") ?? "no cache";
  byId("shown").replaceChildren(list, element("p", { class: "note" }, `The page: ${page}, ${took} ms. The pieces: as they were when it was made.`));
  post(`/api/views/${id}`);
}

// The buttons.

const pages = async (id) => (await get(`/operate/pages/${id}`)).answer;
const reportOf = (service) => latest.filter((report) => report.service === service);
const everyCache = (test) => latest.every((report) => report.caches.every(test));

async function logIn() {
  const login = `user-${1 + Math.floor(Math.random() * 1000)}`;
  return (await post("/api/login", { login, password: "tea" })).ok;
}

const buy = (product) => post("/api/orders", { product, card: "4111111111111111" });
const process = (action) => post(`/operate/processes/${action}`);

const ACTIONS = [
  {
    title: "Rename a product", expect: "Every page shows the new name, at once: in 100 ms or so.",
    async run() {
      const name = `Tea of ${new Date().toLocaleTimeString()}`;
      await pages(7);
      const began = performance.now();
      const renamed = await ask("PUT", "/api/products/7/name", name);
      if (!renamed.ok) return [false, renamed.answer.error];
      const seen = await until(async () => (await pages(7)).every((page) => page.name === name));
      showProduct(7);
      const all = Math.round(performance.now() - began);
      return [seen !== null, seen === null ? "some page has the old name" : `all pages have the new name after ${all} ms`];
    },
  },
  {
    title: "Buy the last piece twice, at once", expect: "One order is placed, the other is told “sold out”, and the page shows 0.",
    async run() {
      if (!await logIn()) return [false, "nobody can log in"];
      await post("/operate/stock/13", 1);
      const both = await Promise.all([buy(13), buy(13)]);
      const placed = both.filter((order) => order.ok).length;
      const refused = both.filter((order) => order.status === 409).length;
      const zero = await until(async () => (await get("/products/13")).answer.stock.value === 0);
      await showProduct(13);
      await post("/operate/stock/13", 1000000);
      return [placed === 1 && refused === 1 && zero !== null, `${placed} placed, ${refused} sold out, the page shows 0 after ${zero} ms`];
    },
  },
  {
    title: "Log out on one instance", expect: "The session has ended on every instance when the answer is there.",
    async run() {
      if (!await logIn()) return [false, "nobody can log in"];
      const before = (await get("/operate/sessions")).answer;
      await post("/api/logout");
      const after = (await get("/operate/sessions")).answer;
      const text = (all) => all.map((one) => `user ${one.instance}: ${one.is_in ? "in" : "out"}`).join(", ");
      return [before.every((one) => one.is_in) && after.every((one) => !one.is_in), `before: ${text(before)}; after: ${text(after)}`];
    },
  },
  {
    title: "Empty a tag", expect: "All green teas are gone from every L1 and from Redis, in one step.",
    async run() {
      for (const id of [2, 6, 10]) await get(`/products/${id}?${Math.random()}`);
      await post("/operate/tags/category:green");
      const found = (await Promise.all([2, 6, 10].map((id) => get(`/operate/keys/shop:product/${id}`)))).flatMap((one) => one.answer);
      const still = found.filter((one) => one.found.age_ms > 1000);
      return [still.length === 0, `${still.length} instances still have one that is older than a second`];
    },
  },
  {
    title: "The kill switch", expect: "All instances say “caches switched off”, pages are still there, and hits end; on again after five seconds.",
    async run() {
      await post("/operate/enabled", false);
      const off = await until(() => everyCache((cache) => !cache.is_enabled));
      const page = await get(`/products/7?${Math.random()}`);
      await wait(5000);
      await post("/operate/enabled", true);
      const on = await until(() => everyCache((cache) => cache.is_enabled));
      return [off !== null && page.ok && on !== null, `off after ${off} ms, the page answers ${page.status}, on again after ${on} ms`];
    },
  },
  {
    title: "Kill an instance, and start it", expect: "Pages go on: the other instance answers. After the start it is warm from Redis.",
    async run() {
      const killed = await process("product/1/kill");
      if (!killed.ok) return [false, killed.answer];
      const page = await get(`/products/7?${Math.random()}`);
      const gone = await until(() => reportOf("product").some((report) => report.is_down));
      const started = await process("product/1/start");
      const back = await until(() => reportOf("product").every((report) => !report.is_down));
      return [page.ok && gone !== null && started.ok && back !== null, `the page answers ${page.status}; back after ${back} ms`];
    },
  },
  {
    title: "Pause Redis", expect: "Pages go on, for two seconds from L1 and then from the databases. The breakers open; when Redis goes on, they close.",
    async run() {
      const paused = await process("redis/pause");
      if (!paused.ok) return [false, paused.answer];
      const isOpen = () => latest.some((report) => report.caches.some((cache) => cache.is_breaker_open));
      let [asked, good] = [0, 0];
      const open = await until(async () => {
        asked += 1;
        good += (await get(`/products/${asked}`)).ok ? 1 : 0;
        return isOpen();
      }, 15000);
      await process("redis/resume");
      const closed = await until(() => everyCache((cache) => !cache.is_breaker_open), 15000);
      return [good === asked && open !== null && closed !== null, `${good} of ${asked} pages; open after ${open} ms, closed ${closed} ms after Redis went on`];
    },
  },
  {
    title: "Kill Redis, and start it empty", expect: "Pages go on from the databases; a few seconds later all caches are back.",
    async run() {
      const killed = await process("redis/kill");
      if (!killed.ok) return [false, killed.answer];
      const answers = [];
      for (let n = 0; n < 20; n++) { answers.push(await get(`/products/${1 + n}`)); await wait(100); }
      const noticed = await until(() => !everyCache((cache) => cache.is_l2_up));
      await process("redis/start");
      const back = await until(() => everyCache((cache) => cache.is_l2_up && !cache.is_breaker_open), 15000);
      const good = answers.filter((answer) => answer.ok).length;
      return [good === 20 && noticed !== null && back !== null, `${good} of 20 pages; all caches are back ${back} ms after the start`];
    },
  },
  {
    title: "Flush Redis", expect: "Every value is gone, also from L1: a server that has lost its data is not trusted. Pages go on.",
    async run() {
      const flushed = await process("redis/flush");
      if (!flushed.ok) return [false, flushed.answer];
      const page = await get(`/products/7?${Math.random()}`);
      const gone = await until(async () => (await get("/operate/keys/shop:product/7")).answer.every((one) => !(one.found.age_ms > 15000)));
      return [page.ok && gone !== null, `the page answers ${page.status}; no old copy after ${gone} ms`];
    },
  },
  {
    title: "Break a database", expect: "The page is there; the pieces of that service are old or missing, and it says so. Mended after five seconds.",
    async run() {
      await post("/operate/databases/inventory", { slowed_by: 0, is_broken: true });
      const seen = await until(async () => {
        const { ok, answer } = await get(`/products/21?${Math.random()}`);
        return ok && (answer.stock.missing !== undefined || answer.stock.how.is_old);
      }, 8000);
      await showProduct(21);
      await wait(3000);
      await post("/operate/databases/inventory", { slowed_by: 0, is_broken: false });
      const well = await until(async () => {
        const { answer } = await get(`/products/21?${Math.random()}`);
        return answer.stock.missing === undefined && !answer.stock.how.is_old;
      });
      return [seen !== null && well !== null, `the page says so after ${seen} ms; well again after ${well} ms`];
    },
  },
  {
    title: "Make a database slow", expect: "200 ms more for each query: pages stay fast, as they are made of cached pieces.",
    async run() {
      await get("/products/7");
      await post("/operate/databases/product", { slowed_by: 200, is_broken: false });
      const times = [];
      for (let n = 0; n < 20; n++) {
        const began = performance.now();
        await get("/products/7");
        times.push(performance.now() - began);
        await wait(100);
      }
      await post("/operate/databases/product", { slowed_by: 0, is_broken: false });
      times.sort((a, b) => a - b);
      return [times[10] < 50, `half of 20 pages took less than ${times[10].toFixed(0)} ms, the slowest ${times[19].toFixed(0)} ms`];
    },
  },
];

function buttons() {
  byId("actions").replaceChildren(...ACTIONS.map((action) => {
    const seen = element("p", { class: "seen", role: "status" });
    const button = element("button", {
      onclick: async () => {
        button.disabled = true;
        seen.className = "seen";
        seen.textContent = "…";
        let [good, text] = [false, ""];
        try { [good, text] = await action.run(); } catch (error) { text = `it could not be tried: ${error.message}`; }
        seen.classList.add(good ? "good" : "bad");
        seen.textContent = `${good ? "Seen" : "Not seen"}: ${text}`;
        button.disabled = false;
      },
    }, "Try");
    return element("div", { class: "action" }, element("h3", {}, action.title), element("p", {}, action.expect),
      element("div", { class: "buttons" }, button), seen);
  }));
}

document.forms.look.addEventListener("submit", (event) => {
  event.preventDefault();
  showProduct(document.forms.look.elements.id.value);
});

document.forms.key.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { cache, key } = document.forms.key.elements;
  const { answer } = await get(`/operate/keys/${cache.value}/${encodeURIComponent(key.value)}`);
  byId("places").tBodies[0].replaceChildren(...answer.map(({ service, instance, found }) => {
    const text = found?.in_l2 ? `${found.in_l1 ? "in L1" : "not in L1"}, in Redis; ${found.age_ms} ms old` : "nowhere";
    return element("tr", {}, element("td", {}, `${service} ${instance}`), element("td", {}, text), element("td", {}, found?.version ?? ""));
  }));
  const lines = story.get(`${cache.value} ${key.value}`) ?? ["nothing yet since the page was opened"];
  byId("story").replaceChildren(...lines.map((line) => element("li", {}, line)));
});

byId("count").addEventListener("click", async () => {
  const { answer } = await get("/operate/totals");
  const shown = ["l1_hits", "l2_hits", "l2_misses", "loads", "stale_served", "invalidations_sent"];
  const row = (cells, kind) => element("tr", {}, ...cells.map((cell) => element(kind, {}, `${cell}`)));
  const rows = Object.entries(answer).map(([cache, counts]) => row([cache, ...shown.map((name) => counts?.[name] ?? "")], "td"));
  byId("totals").tBodies[0].replaceChildren(row(["cache", ...shown], "th"), ...rows);
});

buttons();
listen();
showProduct(7);
