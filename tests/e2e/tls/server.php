<?php
// SPDX-License-Identifier: Apache-2.0
// Returns a file, or the body it received (POST), one connection after the other.
$settings = ["ssl" => ["local_cert" => "/tmp/tls/pair.pem"]];
$listener = stream_socket_server(
    "tls://127.0.0.1:$argv[1]",
    $code,
    $message,
    STREAM_SERVER_BIND | STREAM_SERVER_LISTEN,
    stream_context_create($settings)
);
while (true) {
    $connection = @stream_socket_accept($listener, -1);
    while ($connection && ($line = fgets($connection))) {
        [$method, $target] = explode(" ", $line);
        $size = 0;
        while (($header = trim(fgets($connection))) !== "") {
            if (stripos($header, "content-length:") === 0) {
                $size = (int) substr($header, 15);
            }
        }
        $body = $method === "POST"
            ? stream_get_contents($connection, $size)
            : file_get_contents("/tmp/tls/files" . parse_url($target, PHP_URL_PATH));
        $head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ";
        fwrite($connection, $head . strlen($body) . "\r\n\r\n" . $body);
    }
}
