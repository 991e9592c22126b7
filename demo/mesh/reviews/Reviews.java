// SPDX-License-Identifier: Apache-2.0

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.Security;
import java.time.OffsetDateTime;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The reviews of a book: without ratings (v1), with black stars (v2), with red ones (v3). */
class Reviews {
    static final int PORT = 9080;
    static final Pattern PATH = Pattern.compile("/reviews/(\\d{1,9})");
    static final Pattern FORWARDED = Pattern.compile(
        "x-request-id|traceparent|tracestate|b3|x-b3-.*|end-user|cookie", Pattern.CASE_INSENSITIVE);
    static final List<String> TEXTS = List.of("An entertaining play.", "Absolutely fun.");

    final String version;
    final HttpClient client = HttpClient.newHttpClient();
    final AtomicInteger turn = new AtomicInteger();

    Reviews(String version) {
        this.version = version;
    }

    public static void main(String[] arguments) throws IOException {
        // A container of the service ratings may start again under another address.
        Security.setProperty("networkaddress.cache.ttl", "0");
        Reviews reviews = new Reviews(System.getenv("VERSION"));
        HttpServer server = HttpServer.create(new InetSocketAddress(PORT), 0);
        server.createContext("/", reviews::answer);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }

    void answer(HttpExchange exchange) throws IOException {
        Matcher path = PATH.matcher(exchange.getRequestURI().getPath());
        int status = 200;
        String body;
        if (!path.matches()) {
            status = 400;
            body = "{\"error\": \"please provide numeric product ID\"}";
        } else {
            try {
                body = reviews(exchange, path.group(1));
            } catch (IOException | InterruptedException error) {
                status = 503;
                body = "{\"error\": \"ratings cannot be reached\"}";
            }
        }
        byte[] content = body.getBytes();
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, content.length);
        exchange.getResponseBody().write(content);
        exchange.close();
        System.out.printf("%s - - [%s] \"%s %s %s\" %d %d \"-\" \"%s\"%n",
            exchange.getRemoteAddress().getAddress().getHostAddress(), OffsetDateTime.now(),
            exchange.getRequestMethod(), exchange.getRequestURI(), exchange.getProtocol(),
            status, content.length,
            Optional.ofNullable(exchange.getRequestHeaders().getFirst("User-Agent")).orElse("-"));
    }

    String reviews(HttpExchange exchange, String id) throws IOException, InterruptedException {
        String ratings = version.equals("v1") ? "" : ratings(exchange, id);
        StringBuilder found = new StringBuilder();
        for (int number = 1; number <= TEXTS.size(); number++) {
            String reviewer = "Reviewer" + number;
            found.append(number > 1 ? ", " : "").append("{\"reviewer\": \"" + reviewer
                + "\", \"text\": \"" + TEXTS.get(number - 1) + "\"" + stars(ratings, reviewer) + "}");
        }
        return "{\"id\": \"" + id + "\", \"podname\": \"reviews-" + version
            + "\", \"clustername\": \"mesh\", \"reviews\": [" + found + "]}";
    }

    String stars(String ratings, String reviewer) {
        Matcher found = Pattern.compile("\"" + reviewer + "\": *(\\d)").matcher(ratings);
        String color = version.equals("v2") ? "black" : "red";
        return found.find()
            ? ", \"rating\": {\"stars\": " + found.group(1) + ", \"color\": \"" + color + "\"}" : "";
    }

    String ratings(HttpExchange exchange, String id) throws IOException, InterruptedException {
        InetAddress[] all = InetAddress.getAllByName("ratings");
        Arrays.sort(all, Comparator.comparing(InetAddress::getHostAddress));
        String address = all[turn.getAndIncrement() % all.length].getHostAddress();
        HttpRequest.Builder request = HttpRequest.newBuilder(
            URI.create("http://" + address + ":" + PORT + "/ratings/" + id))
            .header("Host", "ratings:" + PORT)
            .header("User-Agent", "reviews-" + version);
        exchange.getRequestHeaders().forEach((name, values) -> {
            if (FORWARDED.matcher(name).matches()) {
                values.forEach(value -> request.header(name, value));
            }
        });
        HttpResponse<String> response =
            client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IOException("ratings answered " + response.statusCode());
        }
        return response.body();
    }
}
