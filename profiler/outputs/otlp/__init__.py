# SPDX-License-Identifier: Apache-2.0
"""Exports spans and metrics to an OpenTelemetry Collector: OTLP over HTTP (``--otlp``).

``exporter``  the process that exports; the capture's end of it
``delivery``  the bounded queue, and the thread that sends what is in it
``endpoint``  where to send it: the URL and the variables ``OTEL_*``
``spans``     an end of an exchange as a span, by the semantic conventions for HTTP
``metrics``   durations as histograms
``protobuf``  the wire format of protobuf, as far as OTLP needs it

The process that parses captured bytes cannot open sockets (:mod:`profiler.privileges`), so a
process of its own exports. It is forked first, gets records through a pipe, pairs and encodes
them, and sends them. Lines never wait for it: what does not fit into the pipe is dropped and
counted. Every span is sent, dropped for a reason, or waiting.
"""
