// The buttons. Each says before what should be seen, and after whether it was. Those with `isOfCaches` act on the
// caches of the crate, and are hidden where the shop has none.

import { ask, byId, element, get, post, until, wait } from "./tools.js";
import { latest } from "./figures.js";
import { showProduct } from "./looks.js";

/** How each instance calls a product. */
const pages = async (id) => (await get(`/operate/pages/${id}`)).answer;
/** What each instance has of a product. */
const copies = async (id) => (await get(`/operate/keys/shop:product/${id}`)).answer;
const reportOf = (service) => latest.filter((report) => report.service === service);
const everyCache = (test) => latest.every((report) => report.caches.every(test));

async function logIn() {
  const login = `user-${1 + Math.floor(Math.random() * 1000)}`;
  return (await post("/api/login", { login, password: "tea" })).ok;
}

const buy = (product) => post("/api/orders", { product, card: "4111111111111111" });
const process = (action) => post(`/operate/processes/${action}`);

/** Asks for one page after the other until this is so: after how many ms it was, of how many pages how many came. */
async function pagesUntil(isSo, limit, query = () => "") {
  let [asked, good] = [0, 0];
  const after = await until(async () => {
    asked += 1;
    good += (await get(`/products/${asked}${query()}`)).ok ? 1 : 0;
    return isSo();
  }, limit);
  return { after, asked, good };
}

const ACTIONS = [
  {
    title: "Rename a product",
    expect: "Every page shows the new name, at once: in 100 ms or so.",
    async run() {
      const name = `Tea of ${new Date().toLocaleTimeString()}`;
      await pages(7);
      const began = performance.now();
      const renamed = await ask("PUT", "/api/products/7/name", name);
      if (!renamed.ok) return [false, renamed.answer.error];
      const seen = await until(async () => (await pages(7)).every((page) => page.name === name));
      // What the browser gets, which may have kept a page.
      const { answer } = await get("/products/7");
      if (answer.product.value.name !== name) return [false, `the browser shows “${answer.product.value.name}”`];
      showProduct(7);
      const all = Math.round(performance.now() - began);
      return [seen !== null,
        seen === null ? "some page has the old name" : `all pages have the new name after ${all} ms`];
    },
  },
  {
    title: "Buy the last piece twice, at once",
    expect: "One order is placed, the other is told “sold out”, and the page shows 0.",
    async run() {
      if (!await logIn()) return [false, "nobody can log in"];
      await post("/operate/stock/13", 1);
      const both = await Promise.all([buy(13), buy(13)]);
      const placed = both.filter((order) => order.ok).length;
      const refused = both.filter((order) => order.status === 409).length;
      const zero = await until(async () => (await get("/products/13")).answer.stock.value === 0);
      await showProduct(13);
      await post("/operate/stock/13", 1000000);
      return [placed === 1 && refused === 1 && zero !== null,
        `${placed} placed, ${refused} sold out, the page shows 0 after ${zero} ms`];
    },
  },
  {
    title: "Log out on one instance",
    expect: "The session has ended on every instance when the answer is there.",
    async run() {
      if (!await logIn()) return [false, "nobody can log in"];
      const before = (await get("/operate/sessions")).answer;
      await post("/api/logout");
      const after = (await get("/operate/sessions")).answer;
      const text = (all) => all.map((one) => `user ${one.instance}: ${one.is_in ? "in" : "out"}`).join(", ");
      return [before.every((one) => one.is_in) && after.every((one) => !one.is_in),
        `before: ${text(before)}; after: ${text(after)}`];
    },
  },
  {
    title: "Empty a tag",
    isOfCaches: true,
    expect: "All green teas are gone from every L1 and from Redis, in one step.",
    async run() {
      for (const id of [2, 6, 10]) await get(`/products/${id}?${Math.random()}`);
      await post("/operate/tags/category:green");
      const found = (await Promise.all([2, 6, 10].map(copies))).flat();
      const still = found.filter((one) => one.found.age_ms > 1000);
      return [still.length === 0, `${still.length} instances still have one that is older than a second`];
    },
  },
  {
    title: "The kill switch",
    isOfCaches: true,
    expect: "All instances say “caches switched off”, pages are still there, and hits end; on again after five "
      + "seconds.",
    async run() {
      await post("/operate/enabled", false);
      const off = await until(() => everyCache((cache) => !cache.is_enabled));
      const page = await get(`/products/7?${Math.random()}`);
      await wait(5000);
      await post("/operate/enabled", true);
      const on = await until(() => everyCache((cache) => cache.is_enabled));
      return [off !== null && page.ok && on !== null,
        `off after ${off} ms, the page answers ${page.status}, on again after ${on} ms`];
    },
  },
  {
    title: "Kill an instance, and start it",
    expect: "Pages go on: the other instance answers. After the start it is warm from Redis.",
    async run() {
      const killed = await process("product/1/kill");
      if (!killed.ok) return [false, killed.answer];
      const page = await get(`/products/7?${Math.random()}`);
      const gone = await until(() => reportOf("product").some((report) => report.is_down));
      const started = await process("product/1/start");
      const back = await until(() => reportOf("product").every((report) => !report.is_down));
      return [page.ok && gone !== null && started.ok && back !== null,
        `the page answers ${page.status}; back after ${back} ms`];
    },
  },
  {
    title: "Stop a whole service",
    expect: "Pages go on without recommendations. The breakers of the gateways open, so that nobody waits; later "
      + "they close.",
    async run() {
      const isOpen = () => reportOf("gateway").some((report) => report.broken_peers.includes("recommendation"));
      const killed = await process("recommendation/0/kill");
      if (!killed.ok) return [false, killed.answer];
      // Pages that no cache has.
      const { after: open, asked, good } = await pagesUntil(isOpen, undefined, () => `?${Math.random()}`);
      await wait(2000);
      const started = await process("recommendation/0/start");
      const closed = await until(() => !isOpen());
      return [good === asked && open !== null && started.ok && closed !== null,
        `${good} of ${asked} pages; open after ${open} ms, closed ${closed} ms after the start`];
    },
  },
  {
    title: "Pause Redis",
    isOfCaches: true,
    expect: "Pages go on, for two seconds from L1 and then from the databases. The breakers open; when Redis "
      + "goes on, they close.",
    async run() {
      const paused = await process("redis/pause");
      if (!paused.ok) return [false, paused.answer];
      const isOpen = () => latest.some((report) => report.caches.some((cache) => cache.is_breaker_open));
      const { after: open, asked, good } = await pagesUntil(isOpen, 15000);
      await process("redis/resume");
      const closed = await until(() => everyCache((cache) => !cache.is_breaker_open), 15000);
      return [good === asked && open !== null && closed !== null,
        `${good} of ${asked} pages; open after ${open} ms, closed ${closed} ms after Redis went on`];
    },
  },
  {
    title: "Kill Redis, and start it empty",
    isOfCaches: true,
    expect: "Pages go on from the databases; a few seconds later all caches are back.",
    async run() {
      const killed = await process("redis/kill");
      if (!killed.ok) return [false, killed.answer];
      const answers = [];
      for (let n = 0; n < 20; n++) { answers.push(await get(`/products/${1 + n}`)); await wait(100); }
      const noticed = await until(() => !everyCache((cache) => cache.is_l2_up));
      await process("redis/start");
      const back = await until(() => everyCache((cache) => cache.is_l2_up && !cache.is_breaker_open), 15000);
      const good = answers.filter((answer) => answer.ok).length;
      return [good === 20 && noticed !== null && back !== null,
        `${good} of 20 pages; all caches are back ${back} ms after the start`];
    },
  },
  {
    title: "Flush Redis",
    isOfCaches: true,
    expect: "Every value is gone, also from L1: a server that has lost its data is not trusted. Pages go on.",
    async run() {
      const flushed = await process("redis/flush");
      if (!flushed.ok) return [false, flushed.answer];
      const page = await get(`/products/7?${Math.random()}`);
      const gone = await until(async () => (await copies(7)).every((one) => !(one.found.age_ms > 15000)));
      return [page.ok && gone !== null, `the page answers ${page.status}; no old copy after ${gone} ms`];
    },
  },
  {
    title: "Break a database",
    expect: "The page is there; the pieces of that service are old or missing, and it says so. Mended after five "
      + "seconds.",
    async run() {
      // A product that nobody looks at, and whose number of pieces is in no cache.
      await post("/operate/stock/499", 1000000);
      await post("/operate/databases/inventory", { slowed_by: 0, is_broken: true });
      const seen = await until(async () => {
        const { ok, answer } = await get(`/products/499?${Math.random()}`);
        return ok && (answer.stock.missing !== undefined || answer.stock.how.is_old);
      }, 8000);
      await showProduct(499);
      await wait(3000);
      await post("/operate/databases/inventory", { slowed_by: 0, is_broken: false });
      const well = await until(async () => {
        const { answer } = await get(`/products/499?${Math.random()}`);
        return answer.stock.missing === undefined && !answer.stock.how.is_old;
      });
      return [seen !== null && well !== null, `the page says so after ${seen} ms; well again after ${well} ms`];
    },
  },
  {
    title: "Make a database slow",
    expect: "200 ms more for each query of products: pages stay fast, and those without the caches do not.",
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
      const began = performance.now();
      await get("/uncached/products/7");
      const without = performance.now() - began;
      await post("/operate/databases/product", { slowed_by: 0, is_broken: false });
      times.sort((a, b) => a - b);
      return [times[10] < 200 && without > 200,
        `half of 20 pages took less than ${times[10].toFixed(0)} ms; one without caches took ${without.toFixed(0)} ms`];
    },
  },
];

export function buttons() {
  byId("actions").replaceChildren(...ACTIONS.map((action) => {
    const seen = element("p", { class: "seen", role: "status" });
    const button = element("button", {
      onclick: async () => {
        button.disabled = true;
        seen.className = "seen";
        seen.textContent = "trying …";
        let [good, text] = [false, ""];
        try { [good, text] = await action.run(); } catch (error) { text = `it could not be tried: ${error.message}`; }
        seen.classList.add(good ? "good" : "bad");
        seen.textContent = `${good ? "Seen" : "Not seen"}: ${text}`;
        button.disabled = false;
      },
    }, "Try");
    const kind = action.isOfCaches ? "action of-caches" : "action";
    return element("div", { class: kind }, element("h3", {}, action.title), button,
      element("p", {}, action.expect), seen);
  }));
}
