# SPDX-License-Identifier: Apache-2.0
# Returns a file, or the body it received (POST), with a thread for each connection.
require "openssl"
require "socket"

context = OpenSSL::SSL::SSLContext.new
context.cert = OpenSSL::X509::Certificate.new(File.read("/tmp/tls/certificate.pem"))
context.key = OpenSSL::PKey.read(File.read("/tmp/tls/key.pem"))
listener = OpenSSL::SSL::SSLServer.new(TCPServer.new("127.0.0.1", ARGV[0].to_i), context)
loop do
  Thread.new(listener.accept) do |connection|
    while (line = connection.gets)
      method, target, = line.split
      size = 0
      until (header = connection.gets.chomp).empty?
        size = header.split(":")[1].to_i if header.downcase.start_with?("content-length:")
      end
      path = "/tmp/tls/files" + target.split("?")[0]
      body = method == "POST" ? connection.read(size) : File.binread(path)
      head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: #{body.bytesize}\r\n\r\n"
      connection.write(head + body)
    end
  end
end
