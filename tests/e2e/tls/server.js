// SPDX-License-Identifier: Apache-2.0
// Echoes the body it receives. Node's TLS never reads or writes its socket itself.
const fs = require("fs");
const https = require("https");

const options = {
  cert: fs.readFileSync("/tmp/tls/certificate.pem"),
  key: fs.readFileSync("/tmp/tls/key.pem"),
};
https
  .createServer(options, (request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      response.writeHead(200, { "Content-Type": "text/plain" });
      response.end(Buffer.concat([...parts, Buffer.from(`${request.method} ${request.url}`)]));
    });
  })
  .listen(9106);
