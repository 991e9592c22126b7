// SPDX-License-Identifier: Apache-2.0
// The ratings of a book.
const http = require("node:http");

const RATINGS = { Reviewer1: 5, Reviewer2: 4 };

const server = http.createServer((request, response) => {
  const found = /^\/ratings\/(\d{1,9})$/.exec(request.url);
  const answer = found
    ? { id: Number(found[1]), ratings: RATINGS }
    : { error: "please provide numeric product ID" };
  const body = JSON.stringify(answer);
  const status = found ? 200 : 400;
  // Node listens on IPv6, which takes connections by IPv4 too.
  const client = request.socket.remoteAddress.replace("::ffff:", "");
  response.writeHead(status, { "Content-Type": "application/json" }).end(body, () =>
    console.log(
      `${client} - - [${new Date().toISOString()}]` +
        ` "${request.method} ${request.url} HTTP/${request.httpVersion}" ${status} ${body.length}` +
        ` "-" "${request.headers["user-agent"] ?? "-"}"`,
    ),
  );
});
server.listen(9080);
process.on("SIGTERM", () => process.exit());
