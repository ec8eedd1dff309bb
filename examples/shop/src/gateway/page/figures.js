// The figures: what the instances report each second.

import { byId, color, element, nameOf, row } from "./tools.js";

/** The last reports of all instances. */
export let latest = [];

/** How many seconds the charts show. */
const SHOWN = 180;
const LEVELS = ["l1", "l2", "loads", "stale", "fallbacks"];
const NOTHING = { requests: 0, queries: 0, l1: 0, l2: 0, loads: 0, stale: 0, fallbacks: 0 };

const before = new Map();
const now = new Map();

function sums(report) {
  const sum = (name) => report.caches.reduce((all, cache) => all + (cache.stats[name] ?? 0), 0);
  return {
    at: performance.now(), requests: report.requests, queries: report.queries, l1: sum("l1_hits"), l2: sum("l2_hits"),
    loads: sum("loads"), stale: sum("stale_served"), fallbacks: sum("fallbacks_served"),
  };
}

/** What an instance does in a second. */
export const rates = (report) => now.get(nameOf(report)) ?? NOTHING;

function measure(report) {
  const name = nameOf(report);
  if (report.is_down) return now.set(name, NOTHING);
  const sum = sums(report);
  const last = before.get(name) ?? sum;
  before.set(name, sum);
  const seconds = Math.max(0.2, (sum.at - last.at) / 1000);
  // One that was started anew counts from 0.
  const rate = (of) => Math.max(0, sum[of] - last[of]) / seconds;
  now.set(name, Object.fromEntries(Object.keys(NOTHING).map((of) => [of, rate(of)])));
}

export function stateOf(report) {
  if (report.is_down) return ["does not answer", "bad"];
  if (report.is_broken) return ["its database is broken", "bad"];
  if (report.broken_peers.length > 0) return [`breaker open: ${report.broken_peers.join(", ")} not asked`, "bad"];
  if (report.caches.some((cache) => cache.is_breaker_open)) return ["breaker open: Redis not asked", "bad"];
  if (report.caches.some((cache) => !cache.is_l2_up)) return ["Redis is away", "bad"];
  if (report.caches.some((cache) => !cache.is_enabled)) return ["caches switched off", "bad"];
  if (report.slowed_by > 0) return [`its database is ${report.slowed_by} ms slower`, "bad"];
  return ["well", "good"];
}

const ms = (us) => `${(us / 1000).toFixed(us < 10000 ? 1 : 0)} ms`;

function showInstances(reports) {
  byId("figures").tBodies[0].replaceChildren(...reports.map((report) => {
    const rate = rates(report);
    const [text, kind] = stateOf(report);
    const cells = report.is_down ? Array(9).fill("") : [
      rate.requests.toFixed(0), ms(report.times.p50_us), ms(report.times.p99_us),
      ...["l1", "l2", "loads", "stale", "fallbacks", "queries"].map((of) => rate[of].toFixed(0)),
    ];
    return row(nameOf(report), ...cells, element("td", { class: kind }, text));
  }));
}

function showTimes(reports) {
  const gateway = reports.find((report) => report.service === "gateway" && !report.is_down);
  if (!gateway) return;
  const [cached, uncached] = gateway.pages;
  const longest = Math.max(cached.p99_us, uncached.p99_us, 1);
  const cell = (kind, us) => {
    const bar = element("i", { class: `length ${kind}`, style: `width: ${(100 * us) / longest}%` });
    return element("td", {}, ms(us), bar);
  };
  const rows = [["p50", "p50_us"], ["p90", "p90_us"], ["p99", "p99_us"]].map(([name, of]) =>
    row(name, cell("l1", cached[of]), cell("load", uncached[of])));
  byId("times").tBodies[0].replaceChildren(...rows);
  byId("timed").textContent = `Measured in ${nameOf(gateway)}, in the last minute: ${cached.count} pages as customers `
    + `get them, and ${uncached.count} of the same products with each piece read from its database.`;
}

/** Of each service: what its instances have looked up in each of the last seconds. */
const histories = new Map();

function showCharts(reports) {
  const colors = Object.fromEntries(["l1", "l2", "load", "stale", "gone", "line"].map((name) => [name, color(name)]));
  const cached = Map.groupBy(reports.filter((report) => report.service !== "payment"), (report) => report.service);
  for (const [service, instances] of cached) {
    let history = histories.get(service);
    if (!history) {
      history = { seconds: [], canvas: element("canvas"), text: element("p", { class: "note" }) };
      histories.set(service, history);
      byId("charts").append(element("figure", { "data-chart": service },
        element("figcaption", {}, service), history.canvas, history.text));
    }
    const sum = Object.fromEntries(LEVELS.map((of) => [of, instances.reduce((all, one) => all + rates(one)[of], 0)]));
    history.seconds.push(sum);
    history.seconds.splice(0, history.seconds.length - SHOWN);
    const all = sum.l1 + sum.l2 + sum.loads;
    const share = Math.round((100 * sum.l1) / all);
    history.text.textContent = all > 0 ? `${all.toFixed(0)} a second, ${share} % in L1` : "idle";
    drawChart(history, colors);
  }
}

function drawChart({ canvas, seconds }, colors) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = window.devicePixelRatio;
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const drawing = canvas.getContext("2d");
  drawing.scale(scale, scale);
  const [above, below] = [height * 0.75, height * 0.25];
  const most = Math.max(10, ...seconds.map((one) => one.l1 + one.l2 + one.loads));
  const step = width / SHOWN;
  const stack = (one, x, kinds, room, way) => {
    let y = above;
    for (const [of, name] of kinds) {
      const size = Math.min(1, one[of] / most) * room;
      drawing.fillStyle = colors[name];
      drawing.fillRect(x, way < 0 ? y - size : y, Math.max(1, step), size);
      y += way * size;
    }
  };
  seconds.forEach((one, n) => {
    const x = width - (seconds.length - n) * step;
    stack(one, x, [["l1", "l1"], ["l2", "l2"], ["loads", "load"]], above, -1);
    stack(one, x, [["stale", "stale"], ["fallbacks", "gone"]], below, 1);
  });
  drawing.fillStyle = colors.line;
  drawing.fillRect(0, above, width, 1);
}

function showHotKeys(reports) {
  // A share of next to nothing says nothing.
  const busy = reports.filter((report) => rates(report).l1 + rates(report).l2 + rates(report).loads >= 1);
  const hot = busy.flatMap((report) => report.caches.flatMap((cache) =>
    (cache.hot_keys ?? []).map((key) => ({ ...key, cache: cache.namespace, where: nameOf(report) }))));
  hot.sort((a, b) => b.share - a.share);
  byId("hotkeys").tBodies[0].replaceChildren(...hot.slice(0, 8).map((key) =>
    row(`${key.cache} ${key.key}`, `${(100 * key.share).toFixed(1)} %`, key.where)));
}

function showNamespaces(reports) {
  const caches = [...new Set(reports.flatMap((report) => report.caches.map((cache) => cache.namespace)))].sort();
  const select = document.forms.key.elements.cache;
  if (caches.length === select.options.length) return;
  const chosen = select.value || "shop:product";
  select.replaceChildren(...caches.map((cache) => element("option", {}, cache)));
  select.value = chosen;
}

export function show(reports) {
  latest = reports;
  const troubled = reports.filter((report) => stateOf(report)[1] === "bad");
  const why = [...new Set(troubled.map((report) => stateOf(report)[0]))].join("; ");
  byId("state").textContent = troubled.length === 0 ? `all ${reports.length} instances are well`
    : `${troubled.length} of ${reports.length} instances are not well: ${why}`;
  byId("state").className = troubled.length === 0 ? "good" : "bad";
  showInstances(reports);
  showTimes(reports);
  showCharts(reports);
  showHotKeys(reports);
  showNamespaces(reports);
}

export function measureAll(reports) {
  reports.forEach(measure);
}
