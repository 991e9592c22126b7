// SPDX-License-Identifier: Apache-2.0
// Two requests for files, and one with a body: client.mjs FILE LARGE-FILE TARGET
import { readFileSync } from "node:fs";

const [small, large, target] = process.argv.slice(2);
const body = readFileSync("/tmp/tls/files/large", "utf-8");
await (await fetch(small)).text();
await (await fetch(large)).text();
await (await fetch(target, { method: "POST", body })).text();
