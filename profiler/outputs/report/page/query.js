// SPDX-License-Identifier: Apache-2.0
// The language of the search field: `status>=500 and path~/api/*`, `GET /orders*`, `failed`, words.
// The twin of exchanges/query.py, which has its grammar; tests/queries has the cases of both.

/** A condition is invalid; `column` is the place, counted from 1. */
class ConditionError extends Error {
  constructor(text, position, what) {
    super(what);
    this.column = [...text.slice(0, position)].length + 1;
  }
}

// ---- a condition: whether it `holds` for a view, and whether that needs its details

const COMPARE = {
  "<": (found, value) => found < value,
  "<=": (found, value) => found <= value,
  ">": (found, value) => found > value,
  ">=": (found, value) => found >= value,
};

/** Whether the comparison with `value` holds for one of a field's values; null: no value. */
function comparison({ kind, values, isDetailed }, sign, value) {
  const holds = testOf(kind, sign, value);
  return { isDetailed, holds: (view) => (value === null ? values(view).length === 0 : values(view).some(holds)) };
}

function testOf(kind, sign, value) {
  if (sign === "~") {
    const glob = pattern(value);
    return (found) => glob.test(found);
  }
  if (sign in COMPARE) {
    // A status is a range; with < and > it is a single number.
    const bound = [value].flat()[0];
    return (found) => COMPARE[sign](found, bound);
  }
  return kind.same ? (found) => kind.same(value, found) : (found) => found === value;
}

/** Whether a word occurs in the list's row of an exchange; `deep`: or in its details. */
function word(text, deep) {
  const code = /^[1-5]([0-9]{2}|xx)$/.test(text) ? text.replace("xx", "") : null;
  const written = JSON.stringify(text).slice(1, -1);
  return { isDetailed: deep, holds: (view) => (code !== null && [...view.status, ...view.interim].some((status) => String(status).startsWith(code)))
    || view.line.includes(text) || (deep && view.details.text.includes(written)) };
}

const not = (one) => ({ isDetailed: one.isDetailed, holds: (view) => !one.holds(view) });
const every = (all) => ({ isDetailed: all.some((one) => one.isDetailed), holds: (view) => all.every((one) => one.holds(view)) });
const some = (all) => ({ isDetailed: all.some((one) => one.isDetailed), holds: (view) => all.some((one) => one.holds(view)) });

// ---- the syntax

/** Parse a condition. Throws a ConditionError. */
function parse(text) {
  return new Parser(text, false).whole();
}

/** Parse a search, null if it is empty; `deep`: search words in headers and bodies too. */
function parseSearch(text, deep = false) {
  return text.trim() ? new Parser(text, true, deep).whole() : null;
}

const TOKEN = /(?<word>[^\s"'()=<>!~]+)|(?<sign>[=<>!~]+)|(?<paren>[()])|"(?<double>(?:[^"\\]|\\.)*)"|'(?<single>(?:[^'\\]|\\.)*)'/sy;
// A method is a token (RFC 9110, 5.6.2). All methods in use are upper case; fields are lower case.
const METHOD = /^(?:\*|[A-Z][A-Z0-9!#$%&*+.^_`|-]*)$/;
const FLAGS = new Map([
  ["failed", comparison(FIELDS.get("outcome"), "=", "failed")],
  ["tls", { isDetailed: false, holds: (view) => view.capture.isTls(view.row) }],
]);
const DEPTH_MAX = 50;
const SIGNS = [...EQUAL, ...ORDER, "~"];

class Parser {
  constructor(text, isSearch, deep) {
    Object.assign(this, { text, isSearch, deep, at: 0, depth: 0 });
    this.tokens = this.scan();
  }

  whole() {
    const condition = this.either(), token = this.next;
    if (token.kind === "sign") throw this.error("a number of exchanges belongs to an expectation (--expect)", token);
    if (token.kind === ")") throw this.error("there is no parenthesis to close", token);
    if (token.kind !== "end") throw this.error(`\`and\` or \`or\` is missing before ${quoted(token.text)}`, token);
    return condition;
  }

  either() {
    const conditions = [this.both()];
    while (this.take("or")) conditions.push(this.both());
    return some(conditions);
  }

  both() {
    const conditions = [this.one()];
    while (this.take("and") || this.beginsAnother()) conditions.push(this.one());
    return every(conditions);
  }

  /** Whether another term follows: in a search, a space between two terms means `and`. */
  beginsAnother() {
    return this.isSearch && (this.isText || this.next.kind === "(") && this.next.text !== "or";
  }

  one() {
    this.depth += 1;
    if (this.depth > DEPTH_MAX) throw this.error(`\`not\` and parentheses are nested more than ${DEPTH_MAX} deep`, this.next);
    const condition = this.term();
    this.depth -= 1;
    return condition;
  }

  term() {
    const token = this.next, following = this.tokens[this.at + 1] ?? token;
    if (this.take("not")) return not(this.one());
    if (token.kind === "(") {
      this.at += 1;
      const condition = this.either();
      if (this.next.kind !== ")") throw this.error("a parenthesis is not closed", token);
      this.at += 1;
      return condition;
    }
    const isWord = token.kind === "word", isMethod = isWord && METHOD.test(token.text);
    const flag = isWord && FLAGS.get(token.text);
    // After a flag or a method, a sign counts exchanges.
    const isField = isWord && (fieldNamed(token.text) || !(flag || isMethod));
    if (isField && following.kind === "sign") return this.comparison();
    if (isMethod && !flag && (!this.isSearch || /^[/*]/.test(following.text))) return this.request();
    if (!flag && !(this.isSearch && this.isText)) throw this.error(this.missing(token), token);
    this.at += 1;
    return flag || this.word(token);
  }

  word({ kind, text }) {
    const lower = text.toLowerCase();
    return kind === "word" && /^-./s.test(lower) ? not(word(lower.slice(1), this.deep)) : word(lower, this.deep);
  }

  request() {
    const method = this.next.text;
    this.at += 1;
    if (!this.isText || ["and", "or"].includes(this.next.text)) throw this.error("a path is missing after the method", this.next);
    const target = this.value().text;
    const isAsked = some(["path", "url"].map((name) => comparison(FIELDS.get(name), "~", target)));
    return method === "*" ? isAsked : every([comparison(FIELDS.get("method"), "=", method), isAsked]);
  }

  comparison() {
    const name = this.next, field = fieldNamed(name.text);
    this.at += 1;
    if (!field) {
      const advice = adviceFor(name.text), isWord = this.isSearch && !advice.includes("?");
      throw this.error(`${quoted(name.text)} is not a field${isWord ? ": put the text in quotes to look for it" : advice}`, name);
    }
    const sign = this.sign(field), token = this.value();
    const isNone = token.kind === "word" && token.text === "none";
    const value = isNone ? null : this.read(field, token);
    if (isNone && !EQUAL.includes(sign)) throw this.error("`none` can be compared with = and != only", token);
    if (ORDER.includes(sign) && Array.isArray(value) && value[0] !== value[1]) throw this.error(`${token.text} can be compared with = and != only`, token);
    return sign === "!=" ? not(comparison(field, "=", value)) : comparison(field, sign, value);
  }

  sign({ name, kind }) {
    const token = this.next;
    if (!SIGNS.includes(token.text)) throw this.error(`${quoted(token.text)} is not an operator: ${SIGNS.join(" ")}`, token);
    if (!kind.signs.includes(token.text)) throw this.error(`${name} cannot be compared with ${token.text}: ${kind.signs.join(" ")}`, token);
    this.at += 1;
    return token.text;
  }

  value() {
    const token = this.next;
    if (!this.isText) throw this.error("a value is missing", token);
    this.at += 1;
    const following = this.next;
    // Text that touches a word was meant to be part of it.
    if (following.position === token.end && ![")", "end"].includes(following.kind)) {
      throw this.error(`${quoted([...following.text][0] ?? "")} in a value: put the value in quotes, or a space before a number of exchanges`, following);
    }
    return token;
  }

  read({ kind }, token) {
    try { return kind.read(token.text); } catch (error) {
      throw error instanceof RangeError ? this.error(error.message, token) : error;
    }
  }

  take(text) {
    const isIt = this.next.kind === "word" && this.next.text === text;
    this.at += isIt;
    return isIt;
  }

  get next() { return this.tokens[this.at]; }
  get isText() { return ["word", "quoted"].includes(this.next.kind); }

  missing({ kind, text }) {
    if (kind !== "word" || ["and", "or", "not"].includes(text)) return `a condition is missing${adviceFor("")}`;
    return fieldNamed(text) ? `an operator is missing after ${text}` : `${quoted(text)} is not a condition${adviceFor(text)}`;
  }

  error(what, { position }) { return new ConditionError(this.text, position, what); }

  scan() {
    const tokens = [], { text } = this;
    for (let position = 0; ;) {
      position += text.slice(position).search(/\S|$/);
      if (position === text.length) return [...tokens, { kind: "end", text: "", position, end: position }];
      TOKEN.lastIndex = position;
      const found = TOKEN.exec(text)?.groups;
      if (!found) throw this.error("the quote is not closed", { position });
      const quote = found.double ?? found.single;
      const kind = quote !== undefined ? "quoted" : found.paren ?? (found.sign ? "sign" : "word");
      tokens.push({ kind, text: quote?.replace(/\\(.)/gs, "$1") ?? found.paren ?? found.sign ?? found.word, position, end: TOKEN.lastIndex });
      position = TOKEN.lastIndex;
    }
  }
}

function adviceFor(name) {
  const near = nearest(name, [...FIELDS.keys(), ...FLAGS.keys()]);
  return near ? `; did you mean ${near}?` : `: fields are ${[...FIELDS.keys()].join(", ")}, header.NAME; or \`failed\`, \`tls\` or METHOD PATH`;
}

/** The name closest to a word, as Python's difflib.get_close_matches() finds it. */
function nearest(word, names) {
  const likeness = (name) => (2 * common(name, word)) / (name.length + word.length);
  return names.filter((name) => likeness(name) >= 0.6).sort((a, b) => likeness(b) - likeness(a) || (a < b ? 1 : -1))[0];
}

/** The number of characters that two words share: the longest common part, and those on either side. */
function common(one, other) {
  let size = 0, from = 0, at = 0;
  for (let a = 0; a < one.length; a += 1) {
    for (let b = 0; b < other.length; b += 1) {
      let length = 0;
      while (a + length < one.length && one[a + length] === other[b + length]) length += 1;
      if (length > size) [size, from, at] = [length, a, b];
    }
  }
  return size && size + common(one.slice(0, from), other.slice(0, at)) + common(one.slice(from + size), other.slice(at + size));
}
