# SPDX-License-Identifier: Apache-2.0
# Two requests for files, and one with a body: client.pl FILE LARGE-FILE TARGET
use strict;
use warnings;
use LWP::UserAgent;

my $agent = LWP::UserAgent->new(
    keep_alive => 1,
    ssl_opts   => { SSL_ca_file => "/tmp/tls/certificate.pem" },
);
open(my $file, "<", "/tmp/tls/files/large") or die $!;
my $body = do { local $/; <$file> };
my @answers = (
    $agent->get($ARGV[0]),
    $agent->get($ARGV[1]),
    $agent->post($ARGV[2], "Content-Type" => "text/plain", Content => $body),
);
$_->is_success or die $_->status_line for @answers;
