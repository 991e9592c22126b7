// SPDX-License-Identifier: Apache-2.0
// The fields that a condition can use: their names, and where their values are. The twin of
// exchanges/fields.py. A field is in the columns, or else in the details of the exchange.

/** The records of an exchange, as a line of a block: parsed only if a condition needs them. */
class Details {
  constructor(line) { this.line = line; }
  get text() { return this.lower ??= this.line.toLowerCase(); }
  get sides() { return this.parsed ??= JSON.parse(this.line); }
}

/** An exchange as one end saw it; what this end did not see is taken from the other. */
class View {
  constructor(capture, row, role, details) { Object.assign(this, { capture, row, role, details }); }

  number(column) { return this.capture.columns[column][this.row]; }
  text(column) { return this.capture.text(column, this.row); }

  /** The server's time, if this is its view and the time is known; else that of the exchange. */
  time(column, servers) {
    const own = this.role === "server" ? this.number(servers) : NaN;
    return [Number.isNaN(own) ? this.number(column) : own].filter((value) => !Number.isNaN(value));
  }

  /** A message that was not seen has none. */
  sizes(...columns) { return columns.map((column) => this.number(column)).filter((size) => !Number.isNaN(size)); }

  get status() { return [this.number("status")].filter(Boolean); }
  get interim() { return this.text("interim").split(" ").filter(Boolean).map(Number); }
  get targets() { return [this.text("target")].filter(Boolean); }

  /** With and without its port; the column has the server's address if no request was seen. */
  get hosts() {
    if (this.number("flags") & NO_REQUEST) return [];
    const host = this.text("host").toLowerCase();
    return [host, host.replace(/:[0-9]*$/, "")];
  }

  /** The text that words are searched in: what the list shows, and the programs' cgroups. */
  get line() {
    const nodes = ["client", "server"].map((role) => this.capture.node(role, this.row));
    const names = nodes.map((node) => (node.kind === "process" ? `${node.name}\n${node.detail}` : node.name));
    return [`${this.text("method")} ${this.capture.scheme(this.row)}${this.text("host")}${this.text("target")}`, ...names].join("\n").toLowerCase();
  }

  /** The values of some fields in the records of this end. */
  recorded(...names) {
    return this.details.sides[this.role].flatMap((record) => names.map((name) => record[name])).filter((value) => value !== undefined);
  }

  tls(name) { return this.recorded("tls").map((session) => session[name]).filter((value) => value !== undefined); }

  pod(name) { return this.recorded("pod").map((pod) => pod[name]).filter((value) => value !== undefined); }

  header(name) {
    const { client = [], server = [] } = this.details.sides;
    const [own, other] = this.role === "client" ? [client, server] : [server, client];
    const responses = own.filter((record) => record.type === "response");
    const final = responses.some(isFinal) ? [] : other.filter(isFinal);
    return [requestOf(own) ?? requestOf(other), ...responses, ...final].flatMap((record) => headerValues(record?.same ? twinOf(record, client) : record, name));
  }
}

/** The request, or what a response repeats of it. */
function requestOf(records) {
  const summary = records.find((record) => record.request)?.request;
  return records.find((record) => record.type === "request") ?? (summary && { headers: { host: summary.host } });
}

/** Whether this is the last response. A 101 is, unless it switches to h2c (RFC 7540, 3.2). */
function isFinal({ type, status_code: status = 200, upgrade }) {
  return type === "response" && (status < 100 || status >= 200 || (status === 101 && upgrade !== "h2c"));
}

/** The other end's record of the same message. */
function twinOf(record, others) {
  return others.find((one) => one.type === record.type && one.status_code === record.status_code && one.url === record.url);
}

/** The values of a header, and of a trailer, of that name in lower case. */
function headerValues(record, name) {
  return [record?.headers?.[name], record?.trailers?.[name]].flat().filter((value) => value !== undefined);
}

/** The path of a request target: without query, scheme and host. */
function pathOf(target) {
  const origin = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]+/i.exec(target)?.[0] ?? "";
  return target.slice(origin.length).split(/[?#]/, 1)[0] || (origin && "/");
}

const inRange = ([first, last], code) => first <= code && code <= last;
const inCgroup = (wanted, path) => `${path}/`.startsWith(`${wanted.replace(/\/$/, "")}/`);
const inNetwork = ({ network, mask }, bits) => bits !== null && (bits & mask) === network;

// How a value is parsed, the operators it allows, and what `=` means if not equality.
const EQUAL = ["=", "!="], ORDER = ["<", "<=", ">", ">="];
const textual = (read = READ.text) => ({ read, signs: [...EQUAL, "~"] });
const ordered = (read, same) => ({ read, signs: [...EQUAL, ...ORDER], same });
const only = (read, same) => ({ read, signs: EQUAL, same });

const inColumns = (name, kind, values) => ({ name, kind, values, isDetailed: false });
const inDetails = (name, kind, values) => ({ name, kind, values, isDetailed: true });

const FIELDS = new Map([
  inColumns("status", ordered(READ.status, inRange), (view) => view.status),
  inColumns("interim", ordered(READ.status, inRange), (view) => view.interim),
  inColumns("latency", ordered(READ.milliseconds), (view) => view.time("latency", "serverLatency")),
  inColumns("duration", ordered(READ.milliseconds), (view) => view.time("duration", "serverDuration")),
  inColumns("method", textual(READ.method), (view) => [view.text("method").toUpperCase()].filter(Boolean)),
  inColumns("url", textual(), (view) => view.targets),
  inColumns("path", textual(), (view) => view.targets.map(pathOf)),
  inColumns("host", textual(READ.host), (view) => view.hosts),
  inColumns("service", textual(), (view) => [view.text("service")]),
  inColumns("outcome", only(READ.outcome), (view) => [OUTCOMES[view.number("outcome")]]),
  inColumns("incomplete", textual(), (view) => view.text("incomplete").split(", ").filter(Boolean)),
  inColumns("bytes", ordered(READ.size), (view) => view.sizes("requestBytes", "responseBytes").reduce((sums, size) => [(sums[0] ?? 0) + size], [])),
  inColumns("request_bytes", ordered(READ.size), (view) => view.sizes("requestBytes")),
  inColumns("response_bytes", ordered(READ.size), (view) => view.sizes("responseBytes")),
  inDetails("pid", ordered(READ.pid), (view) => view.recorded("pid")),
  inDetails("comm", textual(READ.comm), (view) => view.recorded("comm")),
  inDetails("cmdline", textual(), (view) => view.recorded("cmdline")),
  inDetails("user", only(READ.user), (view) => view.recorded("uid")),
  inDetails("cgroup", only(READ.cgroup, inCgroup), (view) => view.recorded("cgroup")),
  inDetails("container", textual(), (view) => view.recorded("container").flatMap(({ name, id }) => [name, id]).filter((value) => value !== undefined)),
  inDetails("pod", textual(), (view) => view.pod("name")),
  inDetails("namespace", textual(), (view) => view.pod("namespace")),
  inDetails("port", ordered(READ.port), (view) => view.recorded("source_port", "dest_port")),
  inDetails("address", only(READ.address, inNetwork), (view) => view.recorded("source_ip", "dest_ip").map(addressBits)),
  inDetails("direction", only(READ.direction), (view) => view.recorded("direction")),
  inColumns("role", only(READ.role), (view) => [view.role]),
  inDetails("tls.library", textual(), (view) => view.tls("library")),
  inDetails("tls.version", ordered(READ.tlsVersion), (view) => view.tls("version")),
  inDetails("tls.sni", textual(READ.host), (view) => view.tls("sni").map((name) => name.toLowerCase())),
  inDetails("tls.alpn", textual(), (view) => view.tls("alpn")),
  inDetails("tls.cipher", textual(), (view) => view.tls("cipher")),
].map((field) => [field.name, field]));

/** The field of that name; undefined if there is none. */
function fieldNamed(name) {
  const header = /^header\.(:?[!#$%&'*+.^_`|~0-9A-Za-z-]+)$/.exec(name)?.[1].toLowerCase();
  return header ? inDetails(name, textual(), (view) => view.header(header)) : FIELDS.get(name);
}
