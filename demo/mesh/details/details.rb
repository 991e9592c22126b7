# SPDX-License-Identifier: Apache-2.0
# The details of a book.
require "json"
require "webrick"

BOOK = {
  author: "William Shakespeare", year: 1595, type: "paperback", pages: 200,
  publisher: "PublisherA", language: "English",
  "ISBN-10": "1234567890", "ISBN-13": "123-1234567890"
}

$stdout.sync = true
server = WEBrick::HTTPServer.new(
  Port: 9080,
  Logger: WEBrick::Log.new($stderr, WEBrick::Log::WARN),
  AccessLog: [[$stdout, WEBrick::AccessLog::COMBINED_LOG_FORMAT]]
)
server.mount_proc("/details") do |request, response|
  number = request.path[%r{\A/details/(\d{1,9})\z}, 1]
  response.status = number ? 200 : 400
  response.content_type = "application/json"
  response.body = JSON.generate(
    number ? { id: number.to_i, **BOOK } : { error: "please provide numeric product id" }
  )
end
trap("TERM") { server.shutdown }
server.start
