// SPDX-License-Identifier: Apache-2.0
// Parses the values of conditions: the twin of exchanges/values.py.

/** A text in quotes, as Python's repr() writes it. */
function quoted(text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  return mark + text.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`) + mark;
}

/** A pattern of `*`, `?` and `[...]` that matches a whole text, as Python's fnmatch reads it. */
function pattern(glob) {
  const literal = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;
  const members = (set) => set.replace(/([^])-([^])|[^]/gu, (one, low, high) => {
    if (low === undefined) return literal(one);
    return low.codePointAt(0) <= high.codePointAt(0) ? `${literal(low)}-${literal(high)}` : "";
  });
  const source = glob.replace(/\[(!?)(\]?[^\]]*)\]|[^]/gu, (part, not, set) => {
    if (part === "*") return ".*";
    if (part === "?") return ".";
    // A set has members: "[]" and "[!]" are texts.
    return set ? `[${not && "^"}${members(set)}]` : part.replace(/[^]/gu, literal);
  });
  return new RegExp(`^(?:${source})$`, "su");
}

// IPv4 addresses are compared in their IPv4-mapped form, as all 128 bits.
const ALL_BITS = (1n << 128n) - 1n;

/** The 128 bits of an address; null if it is none. */
function addressBits(text) {
  if (text.includes(":")) {
    const groups = ipv6Groups(text);
    return groups && BigInt(`0x${groups.map((group) => group.padStart(4, "0")).join("")}`);
  }
  const parts = text.split(".");
  const isAddress = parts.length === 4 && parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) < 256);
  return isAddress ? parts.reduce((bits, part) => (bits << 8n) | BigInt(part), 0xffffn) : null;
}

/** The eight groups of an IPv6 address, by the browser's own parser; null if it is none. */
function ipv6Groups(text) {
  const short = ipv6(text);
  if (short === null) return null;
  const [head, tail = []] = short.split("::").map((half) => half.split(":").filter(Boolean));
  return [...head, ...Array(8 - head.length - tail.length).fill("0"), ...tail];
}

function ipv6(text) {
  if (!/^[0-9a-f:.]+$/i.test(text)) return null;
  try { return new URL(`http://[${text}]`).hostname.slice(1, -1); } catch { return null; }
}

function addressText(bits, isIpv4) {
  if (isIpv4) return [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 255n).join(".");
  return ipv6(bits.toString(16).padStart(32, "0").replace(/(.{4})(?!$)/g, "$1:"));
}

const SECONDS = { us: 1e-6, ms: 0.001, s: 1, m: 60, h: 3600 };
const MAX_SECONDS = 366 * 86400;
const MAX_UID = 2 ** 32 - 2;
const MAX_COMM = 15;

function between(least, most, what) {
  return (text) => {
    const value = /^[0-9]{1,19}$/.test(text) ? Number(text) : -1;
    if (value < least || value > most) throw new RangeError(`${quoted(text)} is not ${what}`);
    return value;
  };
}

function choice(...words) {
  return (text) => {
    if (!words.includes(text)) throw new RangeError(`${quoted(text)} is not one of ${words.join(", ")}`);
    return text;
  };
}

/** Each parses the text of one value, and throws a RangeError with a message for the user. */
const READ = {
  text: String,
  host: (text) => text.toLowerCase(),
  size: between(0, 1e18, "a number"),
  pid: between(1, 2 ** 31 - 1, "a process id"),
  port: between(1, 65535, "a port (1 to 65535)"),
  outcome: choice(...OUTCOMES),
  direction: choice("send", "recv"),
  role: choice("client", "server"),
  tlsVersion: choice("1.0", "1.1", "1.2", "1.3"),

  method(text) {
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(text)) throw new RangeError(`${quoted(text)} is not a method`);
    return text.toUpperCase();
  },

  comm(text) {
    const name = new TextEncoder().encode(text);
    if (!name.length || name.includes(0)) throw new RangeError("the name of a thread is empty");
    if (name.length <= MAX_COMM) return text;
    const cut = new TextDecoder().decode(name.slice(0, MAX_COMM), { stream: true });
    throw new RangeError(`${quoted(text)} is longer than a thread's name in the kernel, which cuts it to ${quoted(cut)} (--cmdline matches whole arguments)`);
  },

  milliseconds(text) {
    const [, number, unit] = /^([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)$/.exec(text) ?? [];
    const seconds = Number(number) * SECONDS[unit];
    if (seconds <= MAX_SECONDS) return seconds * 1000;
    throw new RangeError(`${quoted(text)} is not a length of time: a number with us, ms, s, m or h, such as 250ms or 1.5s`);
  },

  /** The first and the last of a range. */
  status(text) {
    const [, hundreds, one, end] = /^(?:([1-5])xx|([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?)$/i.exec(text) ?? [];
    if (hundreds) return [hundreds * 100, hundreds * 100 + 99];
    if (!one) throw new RangeError(`${quoted(text)} is not a status, such as 404, 5xx or 400-499`);
    const range = [Number(one), Number(end ?? one)];
    if (range[1] < range[0]) throw new RangeError(`${quoted(text)} ends before it begins`);
    return range;
  },

  user(text) {
    if (!/^[0-9]+$/.test(text)) throw new RangeError(`a report knows users only by number, not ${quoted(text)}`);
    if (Number(text) > MAX_UID) throw new RangeError(`${text} is not a user's number`);
    return Number(text);
  },

  cgroup(text) {
    const path = text.replace(/^\/sys\/fs\/cgroup(\/unified)?(?=\/|$)/, "") || (text && "/");
    const parts = path.split("/").filter((part) => part && part !== ".");
    if ((!parts.length && !path.startsWith("/")) || path.includes("\0") || parts.includes("..")) {
      throw new RangeError(`${quoted(text)} is not the path of a control group, such as /system.slice`);
    }
    return `/${parts.join("/")}`;
  },

  /** An address, or a range as ADDRESS/BITS. */
  address(text) {
    const [given, length, ...rest] = text.split("/"), isIpv4 = !given.includes(":");
    const bits = addressBits(given), size = isIpv4 ? 32 : 128;
    const isLength = length === undefined || (/^[0-9]{1,3}$/.test(length) && Number(length) <= size);
    if (bits === null || !isLength || rest.length) throw new RangeError(`${quoted(text)} is not an address or a range such as 10.0.0.0/8 or fd00::/8`);
    const mask = ALL_BITS ^ ((1n << BigInt(size - (length ?? size))) - 1n);
    if ((bits & mask) === bits) return { network: bits, mask };
    throw new RangeError(`${quoted(text)} has bits set after its mask: use ${addressText(bits & mask, isIpv4)}/${Number(length)}`);
  },
};
