// One product page, one key, what has happened, and the totals.

import { byId, element, get, nameOf, post, row } from "./tools.js";

const long = (ms) => (ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);
const FROM = { l1: "from L1", l2: "from Redis", source: "from the database" };

function how(piece) {
  if (piece.missing) return `missing: ${piece.missing}`;
  const { from, is_old: isOld, age_ms: age } = piece.how;
  return `${isOld ? "an old one, " : ""}${FROM[from]}, ${long(age)} old`;
}

export async function showProduct(id) {
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
    list.append(element("dt", {}, name), element("dd", {}, `${value ?? "–"}`, element("small", {}, how(piece))));
  }
  const cache = headers.get("x-cache");
  const page = cache ? `The cache of the gateway says “${cache}” to this page.` : "The gateway has no cache.";
  byId("shown").replaceChildren(list, element("p", { class: "note" },
    `${page} It took ${took} ms. Sources and ages are those at the moment at which the page was made.`));
  post(`/api/views/${id}`);
}

// One key.

/** What has happened to each key, the last first. */
const stories = new Map();
const DONE = {
  loaded: "has loaded", failed: "could not load", inserted: "has stored", invalidated: "has invalidated",
  tag: "has invalidated the tag", cleared: "has cleared all",
};

function said(name, { kind, what: key, cache, is_own: isOwn }) {
  // The key of a response ends with the hash of its name.
  const what = key.replace(/ [0-9a-f]{32}$/, "");
  const time = new Date().toLocaleTimeString();
  if (kind.startsWith("breaker")) return `${time} ${name}: ${kind} (${cache})`;
  if (kind === "failed" && cache === "shop:http") return `${time} ${name} does not keep ${what}: a piece is missing`;
  if (isOwn) return `${time} ${name} ${DONE[kind]} ${what} (${cache})`;
  return `${time} ${name} drops ${kind === "tag" ? `the tag ${what}` : what || "all"} (${cache})`;
}

export function tell({ service, instance, event }) {
  if (event.kind === "traffic") return;
  const text = said(nameOf({ service, instance }), event);
  for (const key of (event.what ?? "").split(" ")) {
    const name = `${event.cache} ${key}`;
    const lines = stories.get(name) ?? [];
    stories.delete(name);
    stories.set(name, [text, ...lines].slice(0, 12));
  }
  // The keys of which nothing was heard for longest.
  while (stories.size > 5000) stories.delete(stories.keys().next().value);
  if (event.kind === "loaded" || event.kind === "inserted") return;
  const list = byId("events");
  if (!list.dataset.some) list.replaceChildren();
  list.dataset.some = "yes";
  list.prepend(element("li", {}, text));
  while (list.children.length > 14) list.lastChild.remove();
}

export async function showKey() {
  const { cache, key } = document.forms.key.elements;
  const { answer } = await get(`/operate/keys/${cache.value}/${encodeURIComponent(key.value)}`);
  byId("places").tBodies[0].replaceChildren(...answer.map(({ service, instance, found }) => {
    const where = found?.in_l1 ? "in L1 and in Redis" : "in Redis";
    const text = found?.in_l2 ? `${where}, ${long(found.age_ms)} old` : "nowhere";
    return row(nameOf({ service, instance }), text, (found?.version ?? "").replace(/.*ver: (\d+).*/, "$1"));
  }));
  const lines = stories.get(`${cache.value} ${key.value}`) ?? ["nothing has happened to it since the page was opened"];
  byId("story").replaceChildren(...lines.map((line) => element("li", {}, line)));
}

// The totals.

export async function countTotals() {
  const { answer } = await get("/operate/totals");
  const shown = ["l1_hits", "l2_hits", "l2_misses", "loads", "stale_served", "invalidations_sent"];
  byId("totals").tBodies[0].replaceChildren(...Object.entries(answer).map(([cache, counts]) =>
    row(cache, ...shown.map((name) => counts?.[name] ?? ""))));
}

document.forms.look.addEventListener("submit", (event) => {
  event.preventDefault();
  showProduct(document.forms.look.elements.id.value);
});
document.forms.key.addEventListener("submit", (event) => {
  event.preventDefault();
  showKey();
});
byId("count").addEventListener("click", countTotals);
