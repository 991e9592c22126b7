// SPDX-License-Identifier: Apache-2.0
// Creates elements, and makes text safe to show. Nothing in this page turns text into markup.

const byId = (id) => document.getElementById(id);

/** An element; attributes by name, listeners as functions, children as nodes or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return fill(element, attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Controls, direction marks and characters without width: they would have an effect, or be invisible.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|\udb40[\udc00-\udfff]/g;

/** Text in which every character is visible: invisible ones become their number. */
function visible(text, keep = "") {
  return String(text).replace(UNSEEN, (character) => {
    if (keep.includes(character)) return character;
    return `\u27e8U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

const whole = new Intl.NumberFormat("en");
const count = (value) => whole.format(value);

/** Three significant figures, and the unit. */
function figure(value) {
  if (value >= 100 || value === 0) return whole.format(Math.round(value));
  return String(Number(value.toPrecision(value >= 10 ? 3 : 2)));
}

function milliseconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
  if (value < 0) return `-${milliseconds(-value)}`;
  if (value < 1) return `${figure(value * 1000)} \u00b5s`;
  if (value < 1000) return `${figure(value)} ms`;
  if (value < 120000) return `${figure(value / 1000)} s`;
  return `${figure(value / 60000)} min`;
}

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${figure(value)} ${units[unit]}`;
}

function percent(part, all) {
  if (!all || !part) return "0 %";
  const share = (100 * part) / all;
  return share < 0.1 ? "< 0.1 %" : `${share >= 10 ? Math.round(share) : share.toFixed(1)} %`;
}

const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more ?? `${one}s`}`;

/** A table: headings, then rows of nodes or text; `numeric` are the columns of numbers. */
function table(headings, rows, numeric, caption) {
  const cell = (tag) => (content, column) =>
    make(tag, { class: numeric.includes(column) ? "number" : null }, content);
  return make("table", {},
    make("caption", { class: "hidden" }, caption),
    make("thead", {}, make("tr", {}, headings.map(cell("th")))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell("td"))))));
}
