# SPDX-License-Identifier: Apache-2.0
# Two requests for files, and one with a body: client.rb FILE LARGE-FILE TARGET
require "net/http"

small, large, target = ARGV.map { |url| URI(url) }
settings = { use_ssl: true, ca_file: "/tmp/tls/certificate.pem" }
Net::HTTP.start(small.host, small.port, **settings) do |connection|
  connection.get(small.request_uri)
  connection.get(large.request_uri)
  body = File.binread("/tmp/tls/files/large")
  connection.post(target.request_uri, body, "Content-Type" => "text/plain")
end
