// SPDX-License-Identifier: Apache-2.0
// Echoes the body it receives, in HTTP chunks and with a trailer.
const http = require("http");

http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    response.writeHead(200, { "Content-Type": "text/plain", Trailer: "X-Parts" });
    for (const part of parts) response.write(part);
    response.write(`${request.method} ${request.url}`);
    response.addTrailers({ "X-Parts": "said" });
    response.end();
  });
}).listen(9005);
