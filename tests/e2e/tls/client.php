<?php
// SPDX-License-Identifier: Apache-2.0
// Two requests for files, and one with a body: client.php FILE LARGE-FILE TARGET
$settings = ["ssl" => ["cafile" => "/tmp/tls/certificate.pem"]];
file_get_contents($argv[1], false, stream_context_create($settings));
file_get_contents($argv[2], false, stream_context_create($settings));
$settings["http"] = [
    "method" => "POST",
    "header" => "Content-Type: text/plain",
    "content" => file_get_contents("/tmp/tls/files/large"),
];
file_get_contents($argv[3], false, stream_context_create($settings));
