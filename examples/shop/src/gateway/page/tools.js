// What the other files of the page use.

export const byId = (id) => document.getElementById(id);
export const wait = (ms) => new Promise((done) => setTimeout(done, ms));
export const nameOf = ({ service, instance }) => `${service} ${instance}`;
export const color = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A row of a table. */
export const row = (...cells) =>
  element("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : element("td", {}, `${cell}`))));

export function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export async function ask(method, path, body) {
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

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body);

/** Looks until the condition holds. Returns the milliseconds, or null if it never did. */
export async function until(condition, patience = 10000) {
  const began = performance.now();
  while (performance.now() - began < patience) {
    if (await condition()) return Math.round(performance.now() - began);
    await wait(20);
  }
  return null;
}
