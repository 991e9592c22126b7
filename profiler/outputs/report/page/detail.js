// SPDX-License-Identifier: Apache-2.0
// One exchange: its messages, header by header, as each end saw them.

const REASONS = {
  no_response: "the connection or stream ended before a response began",
  body_limit: "the body is longer than the limit",
  lost: "bytes could not be delivered or read",
  closed_early: "the connection or the capture ended first",
  exited: "the process ended",
  decoded_limit: "the decoded content is longer than the limit",
  head_limit: "start line and headers, or the trailers, are too long",
  reset: "the connection or the stream was reset",
  stream_limit: "too many messages were open on the connection",
  unknown_header_state: "headers that refer to unseen ones are missing",
  memory_limit: "the connection was dropped to save memory",
  undecodable: "the framing or a content coding is invalid",
};
const SHOWN = new Set("timestamp type role method url status_code reason http_version headers trailers body body_length body_encoding incomplete same request latency_ms duration_ms".split(" "));

class Detail {
  constructor(capture, grid) {
    Object.assign(this, { capture, grid, dialog: byId("detail"), back: null });
    this.dialog.addEventListener("close", () => this.back?.isConnected ? this.back.focus() : this.grid.body.querySelector("[tabindex='0']")?.focus());
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target.closest("pre, .detail-body table")) return;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.step(event.key === "ArrowLeft" ? -1 : 1);
    });
  }

  async open(row) {
    if (!this.dialog.open) this.back = document.activeElement;
    this.row = row;
    const { capture } = this;
    const sides = await capture.detail(row);
    if (this.row !== row) return;
    const records = [...(sides.client ?? []), ...(sides.server ?? [])];
    const status = capture.columns.status[row];
    const [grpcStatus] = records.filter((one) => one.type === "response").flatMap((one) => headerValues(one, "grpc-status"));
    const step = (way, label) => make("button", { type: "button", "data-step": way, click: () => this.step(way) }, label);
    const focused = this.dialog.open && document.activeElement?.dataset.step;
    this.dialog.replaceChildren(make("div", { class: "detail" },
      make("div", { class: "detail-head" },
        make("div", {},
          make("h2", { id: "detail-title" }, visible(`${capture.text("method", row) || "request not seen"} ${capture.url(row)}`)),
          make("p", {}, make("span", { class: `s-${CLASSES[capture.kind[row]].name}` }, status ? `${status} ${visible(records.find((one) => one.status_code === status)?.reason ?? "")}` : "no response", grpcStatus === undefined ? "" : ` \u00b7 gRPC status ${visible(grpcStatus)}`),
            ` \u00b7 ${new Date(capture.start + capture.columns.time[row]).toISOString()} \u00b7 ${visible(capture.node("client", row).name)} \u2192 ${visible(capture.node("server", row).name)}`),
          make("p", {}, [this.times(row, sides), tlsOf(records)].filter(Boolean).join(" \u00b7 "))),
        step(-1, "Previous"), step(1, "Next"),
        make("button", { type: "button", click: () => this.dialog.close() }, "Close")),
      make("div", { class: "detail-body", tabindex: 0, role: "group", "aria-label": "Messages" },
        records.filter((one) => !one.same).map((record) => this.message(record, records)))));
    if (!this.dialog.open) this.dialog.showModal();
    if (focused) this.dialog.querySelector(`[data-step="${focused}"]`).focus();
  }

  step(way) {
    const index = this.grid.sorted.indexOf(this.row) + way;
    if (index < 0 || index >= this.grid.sorted.length) return;
    this.grid.go(index);
    this.open(this.grid.sorted[index]);
  }

  times(row, sides) {
    const { latency, duration, serverAfter, serverDuration } = this.capture.columns;
    const parts = [`first byte after ${milliseconds(latency[row])}`, `last after ${milliseconds(duration[row])}`];
    if (sides.client && !Number.isNaN(serverDuration[row])) parts.push(`the server received the request after ${milliseconds(serverAfter[row])} and took ${milliseconds(serverDuration[row])}`);
    return Number.isNaN(latency[row]) ? "" : parts.join(", ");
  }

  message(record, records) {
    // The record of a response that never began has no content.
    const isThere = !record.incomplete?.includes("no_response");
    const title = !isThere ? "The connection ended without a response" : record.type === "request"
      ? `${record.method ?? ""} ${record.url ?? ""} HTTP/${record.http_version ?? "?"}`
      : `HTTP/${record.http_version ?? "?"} ${record.status_code ?? ""} ${record.reason ?? ""}`;
    // The other end's record of the same message repeats no content.
    const twin = twinOf(record, records.filter((one) => one.same));
    const seen = !isThere ? "missing" : twin ? "as sent and received" : record.direction === "send" ? "as sent" : "as received";
    return make("article", { class: "message" },
      make("h3", {}, visible(title), " ", make("small", { class: "hint" }, `${record.type}, ${seen}, ${record.role ?? ""}`)),
      make("div", {},
        [record, twin].filter((one) => one?.incomplete).map((one) => make("p", { class: "why" }, `Incomplete (${visible(one.role ?? "")}): `,
          one.incomplete.map((reason) => `${visible(reason)}${REASONS[reason] ? `, ${REASONS[reason]}` : ""}`).join("; "))),
        isThere ? fields(record.headers, "Headers") : null,
        record.trailers ? [make("h3", {}, "Trailers"), fields(record.trailers, "Trailers")] : null,
        isThere ? this.content(record) : null,
        make("details", {}, make("summary", {}, "Capture details"), make("div", { tabindex: 0 },
          [record, twin].filter(Boolean).map((one) => facts(one))))));
  }

  content(record) {
    if (!record.body) return make("p", { class: "hint" }, "No body.");
    const area = make("pre", { tabindex: 0, "aria-label": "Body" });
    const base64 = record.body_encoding === "base64";
    const views = base64 ? [["Bytes", () => dump(record.body)]] : [["Text", () => visible(record.body, "\n\t")]];
    if (!base64) {
      const pretty = indented(record.body);
      if (pretty !== null) views.unshift(["JSON", () => visible(pretty, "\n\t")]);
      if (/\r/.test(record.body)) views[views.length - 1][1] = () => visible(record.body.replaceAll("\r\n", "\n"), "\n\t");
    }
    const buttons = views.map(([name, view], index) => make("button", { type: "button", "aria-pressed": String(index === 0), click: () => {
      area.textContent = view();
      buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === index)));
    } }, name));
    area.textContent = views[0][1]();
    const size = base64 ? Math.floor((record.body.length * 3) / 4) : record.body.length;
    const cut = record.body_length
      ? make("p", { class: "why" }, `Shortened in this report: the first ${count(record.body.length)} of ${count(record.body_length)} characters${base64 ? " of base64" : ""}.`) : null;
    return make("div", {}, make("div", { class: "views" }, buttons.length > 1 ? buttons : null, make("span", { class: "hint" }, `Body, ${base64 ? bytes(size) : many(size, "character")}`)), cut, area);
  }
}

/** How an exchange was encrypted; empty without TLS. */
function tlsOf(records) {
  const session = records.find((one) => one.tls)?.tls;
  if (!session) return "";
  const { version = "", ...more } = session;
  return [`TLS ${version}`.trim(), ...Object.values(more)].map((part) => visible(part)).join(" \u00b7 ");
}

function fields(headers, caption) {
  const rows = Object.entries(headers ?? {}).flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((one) => [name, one]));
  if (!rows.length) return make("p", { class: "hint" }, "No headers.");
  return make("table", { class: "code" }, make("caption", { class: "hidden" }, caption),
    make("tbody", {}, rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, visible(name)), make("td", {}, visible(value))))));
}

function facts(record) {
  const rows = [["timestamp", record.timestamp], ...Object.entries(record).filter(([name]) => !SHOWN.has(name)),
    ...["latency_ms", "duration_ms"].filter((name) => name in record).map((name) => [name, record[name]])];
  return make("table", { class: "code" }, make("caption", { class: "hidden" }, `As the ${visible(record.role ?? "process")} saw it`),
    make("tbody", {}, [["role", record.role ?? "unknown"], ...rows].map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, visible(name)), make("td", {}, visible(typeof value === "object" ? JSON.stringify(value) : value))))));
}

function indented(text) {
  if (!/^\s*[[{]/.test(text)) return null;
  try {
    const parsed = JSON.stringify(JSON.parse(text), null, 2);
    return parsed === text ? null : parsed;
  } catch { return null; }
}

/** A hex dump: bytes as numbers, with their characters beside them. */
function dump(base64) {
  const data = atob(base64), lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const part = [...data.slice(at, at + 16)];
    const numbers = part.map((one) => one.charCodeAt(0).toString(16).padStart(2, "0")).join(" ").padEnd(48);
    lines.push(`${at.toString(16).padStart(6, "0")}  ${numbers} ${part.map((one) => (one >= " " && one <= "~" ? one : ".")).join("")}`);
  }
  return lines.join("\n");
}
