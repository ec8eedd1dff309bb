// The picture: the instances, and the dots that move between them.

import { byId, color, drawn, nameOf } from "./tools.js";
import { rates } from "./figures.js";

const INNER = ["user", "product", "inventory", "order", "payment", "recommendation"];
const TAKES = { request: 450, l2: 600, load: 600, gone: 900 };
/** How many dots of a kind there are at a time. */
const ROOM = { request: 60, l2: 60, load: 60, gone: 200 };
const REDIS = 385;
const TOP = 205;

const picture = byId("picture");
const places = new Map();
/** Where the way of an instance to Redis turns, so that it passes by its database or the services. */
const turns = new Map();
/** The instances that do not ask Redis: what these load goes nowhere. */
const cutOff = new Set();
let shownNames = "";

const columnOf = (service) => 75 + INNER.indexOf(service) * 150;

export function layOut(reports) {
  const names = reports.map(nameOf).join();
  if (names === shownNames) return;
  shownNames = names;
  picture.replaceChildren();
  places.clear();
  turns.clear();
  moving.clear();
  places.set("clients", { x: 450, y: 20 });
  const counts = Map.groupBy(reports, (report) => report.service);
  for (const { service, instance } of reports) {
    const many = counts.get(service).length;
    const name = nameOf({ service, instance });
    const off = instance - (many - 1) / 2;
    if (service === "gateway") {
      places.set(name, { x: 450 + off * 150, y: 90 });
      turns.set(name, { x: 450 + off * 6, y: 140 });
    } else {
      const x = columnOf(service) + off * (132 / many);
      places.set(name, { x, y: TOP });
      // One instance alone stands above its database.
      turns.set(name, { x: many === 1 ? x + 48 : x + Math.sign(off) * 14, y: TOP + 30 });
      places.set(`database of ${service}`, { x: columnOf(service), y: 295 });
    }
  }
  const line = (a, b, attributes = {}) =>
    picture.append(drawn("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, ...attributes }));
  for (const { service, instance } of reports) {
    const here = places.get(nameOf({ service, instance }));
    if (service !== "gateway") {
      line(here, places.get(`database of ${service}`));
      for (const gateway of counts.get("gateway") ?? []) {
        line(places.get(nameOf(gateway)), here, { class: "call", "data-from": nameOf(gateway), "data-to": service });
      }
    } else line(here, places.get("clients"));
  }
  for (const service of INNER.filter((service) => counts.has(service))) {
    const { x, y } = places.get(`database of ${service}`);
    const d = `M${x - 30} ${y - 10}v20a30 7 0 0 0 60 0v-20a30 7 0 0 0 -60 0a30 7 0 0 0 60 0`;
    picture.append(drawn("path", { class: "database", d }));
    picture.append(drawn("text", { x, y: y + 9, class: "small" }, "database"));
    picture.append(drawn("text", { x: columnOf(service), y: TOP - 30, class: "service" }, service));
  }
  for (const { service, instance } of reports) {
    const name = nameOf({ service, instance });
    const { x, y } = places.get(name);
    const isGateway = service === "gateway";
    const width = isGateway ? 120 : Math.min(110, 132 / counts.get(service).length - 6);
    const box = drawn("g", { "data-place": name });
    box.append(drawn("rect", { class: "box", x: x - width / 2, y: y - 20, width, height: 40, rx: 6 }));
    box.append(drawn("text", { x, y: y + 1 }, isGateway ? name : `${instance}`));
    for (const level of ["l1", "l2", "load"]) {
      box.append(drawn("rect", { class: `level fill-${level}`, x: x - width / 2 + 5, y: y + 9, width: 0, height: 6 }));
    }
    box.dataset.width = width - 10;
    box.dataset.left = x - width / 2 + 5;
    picture.append(box);
  }
  const redis = drawn("g", { "data-place": "redis" });
  redis.append(drawn("rect", { class: "box", x: 9, y: REDIS - 17, width: 882, height: 34, rx: 6 }));
  redis.append(drawn("text", { x: 450, y: REDIS + 4 }, "Redis: L2 of all services"));
  picture.append(redis, drawn("text", { ...places.get("clients"), class: "service" }, "clients"));
}

/** The state of each instance, and where it has found its values. */
export function showIn(reports) {
  for (const report of reports) {
    const box = picture.querySelector(`[data-place="${nameOf(report)}"]`);
    box.classList.toggle("down", report.is_down);
    if (report.caches.every((cache) => cache.is_l2_up && !cache.is_breaker_open)) cutOff.delete(nameOf(report));
    else cutOff.add(nameOf(report));
    const now = rates(report);
    const all = now.l1 + now.l2 + now.loads;
    let left = Number(box.dataset.left);
    [now.l1, now.l2, now.loads].forEach((rate, level) => {
      const width = all > 0 ? (rate / all) * box.dataset.width : 0;
      const part = box.querySelectorAll(".level")[level];
      part.setAttribute("x", left);
      part.setAttribute("width", width);
      left += width;
    });
    for (const link of picture.querySelectorAll(`[data-from="${nameOf(report)}"]`)) {
      link.classList.toggle("open", report.broken_peers.includes(link.dataset.to));
    }
  }
  const caches = reports.flatMap((report) => report.caches);
  const isAway = caches.length > 0 && caches.every((cache) => !cache.is_l2_up);
  picture.querySelector('[data-place="redis"]').classList.toggle("down", isAway);
}

const moving = new Set();
const isQuiet = matchMedia("(prefers-reduced-motion: reduce)");

/** Moves a dot along some points. */
function move(points, kind, delay = 0) {
  const alike = [...moving].filter((one) => one.kind === kind);
  if (points.includes(undefined) || document.hidden || isQuiet.matches || alike.length >= ROOM[kind]) return;
  const way = points[0].y < points.at(-1).y ? "down" : "up";
  const r = kind === "request" ? 3.5 : 5;
  const dot = drawn("circle", { r, class: `moving fill-${kind} ${way}`, cx: -20, cy: -20 });
  const lengths = points.slice(1).map((point, n) => Math.hypot(point.x - points[n].x, point.y - points[n].y));
  moving.add({ dot, points, lengths, kind, began: performance.now() + delay });
  picture.append(dot);
  if (moving.size === 1) requestAnimationFrame(step);
}

function step(now) {
  for (const one of moving) {
    const share = (now - one.began) / TAKES[one.kind];
    if (share < 0) continue;
    if (share >= 1) {
      one.dot.remove();
      moving.delete(one);
      continue;
    }
    let rest = share * one.lengths.reduce((sum, length) => sum + length, 0);
    let part = 0;
    while (part < one.lengths.length - 1 && rest > one.lengths[part]) rest -= one.lengths[part++];
    const [a, b] = [one.points[part], one.points[part + 1]];
    const along = rest / (one.lengths[part] || 1);
    one.dot.setAttribute("cx", a.x + (b.x - a.x) * along);
    one.dot.setAttribute("cy", a.y + (b.y - a.y) * along);
  }
  if (moving.size > 0) requestAnimationFrame(step);
}

/** Where dots leave and enter a box: they do not cover its text. */
function edge(name, side) {
  const place = places.get(name);
  return place && { x: place.x, y: place.y + side * 20 };
}

/** The way of an instance to Redis. */
function down(name) {
  const turn = turns.get(name);
  return [edge(name, 1), turn, turn && { x: turn.x, y: REDIS - 17 }];
}

const up = (name) => down(name).reverse();

function flash(name) {
  const box = picture.querySelector(`[data-place="${name}"] .box`);
  box?.animate([{ stroke: color("gone"), strokeWidth: 4 }, {}], 900);
}

export function eventHappened({ service, instance, event }) {
  const here = nameOf({ service, instance });
  const { kind, is_own: isOwn } = event;
  if (kind === "traffic") {
    const dots = (count, points, kind) => {
      // They came within 200 ms.
      for (let n = 0; n < Math.min(3, count); n++) move(points, kind, (n * 200) / Math.min(3, count));
    };
    if (service === "gateway") dots(event.received, [places.get("clients"), edge(here, -1)], "request");
    // From the gateways down; among the others to and fro.
    const side = service === "gateway" ? 1 : -1;
    for (const { to, count } of event.sent) dots(count, [edge(here, side), edge(to, -1)], "request");
    dots(event.from_l2, up(here), "l2");
  } else if (kind === "loaded" || kind === "failed") {
    // The gateway has no database: its loads are the requests to the services. So are those of others' products.
    const own = service === "gateway" || (service === "order" && event.cache === "shop:product");
    if (!own) move([edge(`database of ${service}`, -1), edge(here, 1)], "load");
    if (kind === "loaded" && !cutOff.has(here)) move(down(here), "l2", own ? 0 : TAKES.load);
  } else if (kind === "inserted" && isOwn) {
    move(down(here), "l2");
  } else if (["inserted", "invalidated", "tag", "cleared"].includes(kind)) {
    if (isOwn) return move(down(here), "gone");
    move(up(here), "gone");
    setTimeout(flash, TAKES.gone, here);
  }
}
