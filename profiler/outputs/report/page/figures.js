// SPDX-License-Identifier: Apache-2.0
// Figures of a set of rows.

/** The smallest value that at least the share `q` of all values do not exceed (nearest rank). */
function percentile(sorted, q) {
  return sorted.length ? sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] : NaN;
}

function sortedValues(rows, column) {
  const values = new Float64Array(rows.length);
  let size = 0;
  for (const row of rows) if (!Number.isNaN(column[row])) values[size++] = column[row];
  return values.subarray(0, size).sort();
}

/** Per group: rows, failures, sorted values. `key` gives a row's group, NaN for none. */
function groups(rows, key) {
  const found = new Map();
  for (const row of rows) {
    const group = key(row);
    const rowsOf = found.get(group);
    if (rowsOf) rowsOf.push(row); else found.set(group, [row]);
  }
  return found;
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5,
  9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5, 6048e5];

/** Counts by time bin and class of status; at most 90 bins of a round length. */
function overTime(capture, rows, from, to) {
  const step = STEPS.find((one) => (to - from) / one <= 90) ?? (to - from) / 90;
  const first = Math.floor((capture.start + from) / step) * step - capture.start;
  const size = Math.max(1, Math.floor((to - first) / step) + 1);
  const bins = CLASSES.map(() => new Float64Array(size));
  for (const row of rows) {
    bins[capture.kind[row]][Math.floor((capture.columns.time[row] - first) / step)] += 1;
  }
  return { step, first, size, bins };
}

// Eight bars per power of ten, from one microsecond.
const PER_TEN = 8;
const binOf = (value) => Math.floor(Math.log10(Math.max(value, 0.001)) * PER_TEN);
const binStart = (bin) => 10 ** (bin / PER_TEN);

function distribution(sorted, low = binOf(sorted[0] ?? 1), high = binOf(sorted[sorted.length - 1] ?? 1)) {
  const bins = new Float64Array(Math.max(1, high - low + 1));
  for (const value of sorted) bins[binOf(value) - low] += 1;
  return { low, bins };
}
