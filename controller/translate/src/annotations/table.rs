//! What every known annotation means here. An annotation that is not in the table is reported as unknown: none is
//! passed over in silence, because people find out in production.

/// What an annotation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Read by this crate.
    Implemented,
    /// It restricts who or what gets through, and that is not implemented: the paths of the Ingress answer 503.
    Closes,
    /// Without effect; requests are served without it.
    Ignored,
    /// Raw proxy configuration: closes, unless it touches nothing but response headers, timeouts and buffers.
    Snippet,
    /// No such annotation exists (any more), though manifests have it.
    Nonexistent,
}

/// One annotation of the family `nginx.ingress.kubernetes.io/`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) effect: Effect,
    /// Values that ask for nothing beyond what happens anyway, so that there is nothing to say.
    pub(crate) silent: &'static [&'static str],
    pub(crate) remedy: &'static str,
}

/// Finds the row of a key (without the prefix).
pub(crate) fn find(key: &str) -> Option<&'static Row> {
    ROWS.binary_search_by(|row| row.key.cmp(key)).ok().map(|at| &ROWS[at])
}

const NOTHING: &[&str] = &[];
const OFF: &[&str] = &["false", "off", "0", ""];

const AUTH: &str =
    "authenticate in the backend, or keep this Ingress on a controller that has it, and remove the annotation";
const CLIENT_CERT: &str =
    "use sluicegate.io/tls-passthrough so that the backend verifies client certificates, and remove the annotation";
const SOURCE_RANGE: &str = "restrict addresses with a NetworkPolicy or in the backend, and remove the annotation";
const RATE: &str = "limit requests in the backend, and remove the annotation";
const WAF: &str = "put a web application firewall between the gateway and the backend, and remove the annotation";
const UPSTREAM_TLS: &str =
    "terminate TLS in a sidecar that verifies, or encrypt by the network, and remove the annotation";
const REDIRECT: &str = "let the backend redirect, and remove the annotation";
const HEADERS: &str = "set the header in the backend, and remove the annotation";
const CORS: &str = "answer CORS in the backend, and remove the annotation";
const STICKY: &str = "use sluicegate.io/load-balance: hash with sluicegate.io/hash-by: client-address or cookie:NAME";
const CANARY: &str = "split traffic with replicas behind one Service, and remove the canary Ingress";
const RETRY: &str = "remove the annotation; connect failures and idempotent requests are retried on another endpoint";
const STREAMED: &str = "remove the annotation; bodies are streamed in bounded memory";
const TUNING: &str = "remove the annotation; there is nothing to tune here";
const TLS_SIDE: &str = "remove the annotation; TLS 1.2 and 1.3 with modern ciphers are offered everywhere";
const SNIPPET: &str =
    "replace the snippet by annotations or move it into the backend; proxy configuration text is never executed";
const HOSTS: &str = "add the names as rules of an Ingress";
const MIRROR: &str = "mirror in the backend, and remove the annotation";
const GONE: &str = "remove the annotation; it has no effect in ingress-nginx either";

const fn row(key: &'static str, effect: Effect, silent: &'static [&'static str], remedy: &'static str) -> Row {
    Row { key, effect, silent, remedy }
}

use Effect::{Closes, Ignored, Implemented, Nonexistent, Snippet};

/// Sorted by key.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("add-base-url", Nonexistent, OFF, GONE),
    row("affinity", Ignored, OFF, STICKY),
    row("affinity-canary-behavior", Ignored, NOTHING, STICKY),
    row("affinity-mode", Ignored, NOTHING, STICKY),
    row("allowlist-source-range", Closes, NOTHING, SOURCE_RANGE),
    row("app-root", Ignored, NOTHING, REDIRECT),
    row("auth-always-set-cookie", Closes, OFF, AUTH),
    row("auth-cache-duration", Closes, NOTHING, AUTH),
    row("auth-cache-key", Closes, NOTHING, AUTH),
    row("auth-keepalive", Closes, OFF, AUTH),
    row("auth-keepalive-requests", Closes, NOTHING, AUTH),
    row("auth-keepalive-share-vars", Closes, OFF, AUTH),
    row("auth-keepalive-timeout", Closes, NOTHING, AUTH),
    row("auth-method", Closes, NOTHING, AUTH),
    row("auth-proxy-set-headers", Closes, NOTHING, AUTH),
    row("auth-realm", Closes, NOTHING, AUTH),
    row("auth-request-redirect", Closes, NOTHING, AUTH),
    row("auth-response-headers", Closes, NOTHING, AUTH),
    row("auth-secret", Closes, NOTHING, AUTH),
    row("auth-secret-type", Closes, NOTHING, AUTH),
    row("auth-signin", Closes, NOTHING, AUTH),
    row("auth-signin-redirect-param", Closes, NOTHING, AUTH),
    row("auth-snippet", Closes, NOTHING, AUTH),
    row("auth-tls-error-page", Closes, NOTHING, CLIENT_CERT),
    row("auth-tls-match-cn", Closes, NOTHING, CLIENT_CERT),
    row("auth-tls-pass-certificate-to-upstream", Closes, OFF, CLIENT_CERT),
    row("auth-tls-secret", Closes, NOTHING, CLIENT_CERT),
    row("auth-tls-verify-client", Closes, &["off"], CLIENT_CERT),
    row("auth-tls-verify-depth", Closes, NOTHING, CLIENT_CERT),
    row("auth-type", Closes, NOTHING, AUTH),
    row("auth-url", Closes, NOTHING, AUTH),
    row("backend-protocol", Implemented, NOTHING, ""),
    row("canary", Implemented, NOTHING, ""),
    row("canary-by-cookie", Ignored, NOTHING, CANARY),
    row("canary-by-header", Ignored, NOTHING, CANARY),
    row("canary-by-header-pattern", Ignored, NOTHING, CANARY),
    row("canary-by-header-value", Ignored, NOTHING, CANARY),
    row("canary-weight", Ignored, NOTHING, CANARY),
    row("canary-weight-total", Ignored, NOTHING, CANARY),
    row("client-body-buffer-size", Ignored, NOTHING, STREAMED),
    row("configuration-snippet", Snippet, NOTHING, SNIPPET),
    row("connection-proxy-header", Ignored, NOTHING, "remove the annotation; the gateway decides how connections to backends are kept"),
    row("cors-allow-credentials", Ignored, NOTHING, CORS),
    row("cors-allow-headers", Ignored, NOTHING, CORS),
    row("cors-allow-methods", Ignored, NOTHING, CORS),
    row("cors-allow-origin", Ignored, NOTHING, CORS),
    row("cors-expose-headers", Ignored, NOTHING, CORS),
    row("cors-max-age", Ignored, NOTHING, CORS),
    row("custom-headers", Ignored, NOTHING, HEADERS),
    row("custom-http-errors", Ignored, NOTHING, "let the backend answer with its own error pages, and remove the annotation"),
    row("default-backend", Ignored, NOTHING, "use spec.defaultBackend for paths that nothing takes, and remove the annotation"),
    row("denylist-source-range", Closes, NOTHING, SOURCE_RANGE),
    row("disable-proxy-intercept-errors", Ignored, OFF, "remove the annotation; answers of backends are never replaced"),
    row("enable-access-log", Implemented, &["true", ""], ""),
    row("enable-cors", Ignored, OFF, CORS),
    row("enable-global-auth", Ignored, OFF, "remove the annotation; there is no global authentication to take part in"),
    row("enable-modsecurity", Closes, OFF, WAF),
    row("enable-opentelemetry", Implemented, &["true"], ""),
    row("enable-opentracing", Nonexistent, OFF, GONE),
    row("enable-owasp-core-rules", Closes, OFF, WAF),
    row("enable-rewrite-log", Ignored, OFF, "use `sluicegate explain` to see how a path is rewritten, and remove the annotation"),
    row("enable-websockets", Nonexistent, NOTHING, "remove the annotation; WebSocket works without it"),
    row("fastcgi-index", Ignored, NOTHING, "put an HTTP server in front of the FastCGI process"),
    row("fastcgi-params-configmap", Ignored, NOTHING, "put an HTTP server in front of the FastCGI process"),
    row("force-ssl-redirect", Ignored, OFF, REDIRECT),
    row("from-to-www-redirect", Ignored, OFF, "add a rule for the other name, and let the backend redirect"),
    row("grpc-backend", Nonexistent, OFF, "use nginx.ingress.kubernetes.io/backend-protocol: GRPC"),
    row("http2-push-preload", Ignored, OFF, "remove the annotation; browsers have dropped HTTP/2 push"),
    row("limit-allowlist", Ignored, NOTHING, RATE),
    row("limit-burst-multiplier", Ignored, NOTHING, RATE),
    row("limit-connections", Closes, OFF, RATE),
    row("limit-rate", Ignored, OFF, "shape bandwidth in the backend, and remove the annotation"),
    row("limit-rate-after", Ignored, OFF, "shape bandwidth in the backend, and remove the annotation"),
    row("limit-req-status-code", Nonexistent, NOTHING, GONE),
    row("limit-rpm", Closes, OFF, RATE),
    row("limit-rps", Closes, OFF, RATE),
    row("limit-whitelist", Ignored, NOTHING, RATE),
    row("load-balance", Implemented, NOTHING, ""),
    row("mirror-host", Ignored, NOTHING, MIRROR),
    row("mirror-request-body", Ignored, NOTHING, MIRROR),
    row("mirror-target", Ignored, NOTHING, MIRROR),
    row("modsecurity-snippet", Closes, NOTHING, WAF),
    row("modsecurity-transaction-id", Ignored, NOTHING, WAF),
    row("opentelemetry-operation-name", Implemented, &[""], ""),
    row("opentelemetry-trust-incoming-span", Implemented, &[""], ""),
    row("opentracing-trust-incoming-span", Nonexistent, NOTHING, GONE),
    row("permanent-redirect", Ignored, NOTHING, REDIRECT),
    row("permanent-redirect-code", Ignored, NOTHING, REDIRECT),
    row("preserve-trailing-slash", Ignored, NOTHING, "remove the annotation; the gateway redirects nothing to https"),
    row("proxy-body-size", Implemented, NOTHING, ""),
    row("proxy-buffer-size", Ignored, NOTHING, STREAMED),
    row("proxy-buffering", Ignored, &["off"], STREAMED),
    row("proxy-buffers-number", Ignored, NOTHING, STREAMED),
    row("proxy-busy-buffers-size", Ignored, NOTHING, STREAMED),
    row("proxy-connect-timeout", Implemented, NOTHING, ""),
    row("proxy-cookie-domain", Ignored, &["off"], "let the backend set the cookie's domain, and remove the annotation"),
    row("proxy-cookie-path", Ignored, &["off"], "let the backend set the cookie's path, and remove the annotation"),
    row("proxy-hide-headers", Nonexistent, NOTHING, HEADERS),
    row("proxy-http-version", Ignored, &["1.1"], "remove the annotation; HTTP/1.1 is spoken to backends"),
    row("proxy-max-temp-file-size", Ignored, NOTHING, STREAMED),
    row("proxy-next-upstream", Ignored, &["error timeout"], RETRY),
    row("proxy-next-upstream-timeout", Ignored, OFF, RETRY),
    row("proxy-next-upstream-tries", Ignored, &["3"], RETRY),
    row("proxy-pass-headers", Nonexistent, NOTHING, HEADERS),
    row("proxy-read-timeout", Implemented, NOTHING, ""),
    row("proxy-redirect-from", Ignored, &["off"], "let the backend write the Location header that clients shall see"),
    row("proxy-redirect-to", Ignored, &["off"], "let the backend write the Location header that clients shall see"),
    row("proxy-request-buffering", Ignored, &["off"], STREAMED),
    row("proxy-send-timeout", Implemented, NOTHING, ""),
    row("proxy-set-headers", Nonexistent, NOTHING, HEADERS),
    row("proxy-ssl-ciphers", Ignored, NOTHING, TLS_SIDE),
    row("proxy-ssl-name", Ignored, NOTHING, UPSTREAM_TLS),
    row("proxy-ssl-protocols", Ignored, NOTHING, TLS_SIDE),
    row("proxy-ssl-secret", Ignored, NOTHING, UPSTREAM_TLS),
    row("proxy-ssl-server-name", Ignored, OFF, UPSTREAM_TLS),
    row("proxy-ssl-verify", Closes, OFF, UPSTREAM_TLS),
    row("proxy-ssl-verify-depth", Ignored, NOTHING, UPSTREAM_TLS),
    row("rate-limit", Nonexistent, NOTHING, RATE),
    row("rate-limit-rps", Nonexistent, NOTHING, RATE),
    row("rate-limit-window", Nonexistent, NOTHING, RATE),
    row("relative-redirects", Ignored, OFF, REDIRECT),
    row("rewrite-target", Implemented, NOTHING, ""),
    row("satisfy", Ignored, &["all"], AUTH),
    row("secure-backends", Nonexistent, OFF, "use nginx.ingress.kubernetes.io/backend-protocol: HTTPS"),
    row("server-alias", Ignored, NOTHING, HOSTS),
    row("server-snippet", Snippet, NOTHING, SNIPPET),
    row("service-upstream", Ignored, OFF, "remove the annotation; requests go to the endpoints of the Service"),
    row("session-cookie-change-on-failure", Ignored, OFF, STICKY),
    row("session-cookie-conditional-samesite-none", Ignored, OFF, STICKY),
    row("session-cookie-domain", Ignored, NOTHING, STICKY),
    row("session-cookie-expires", Ignored, NOTHING, STICKY),
    row("session-cookie-hash", Nonexistent, NOTHING, STICKY),
    row("session-cookie-max-age", Ignored, NOTHING, STICKY),
    row("session-cookie-name", Ignored, NOTHING, STICKY),
    row("session-cookie-path", Ignored, NOTHING, STICKY),
    row("session-cookie-samesite", Ignored, NOTHING, STICKY),
    row("session-cookie-secure", Ignored, NOTHING, STICKY),
    row("ssl-ciphers", Ignored, NOTHING, TLS_SIDE),
    row("ssl-passthrough", Implemented, NOTHING, ""),
    row("ssl-prefer-server-ciphers", Ignored, NOTHING, TLS_SIDE),
    row("ssl-protocols", Nonexistent, NOTHING, TLS_SIDE),
    row("ssl-redirect", Ignored, OFF, REDIRECT),
    row("stream-snippet", Ignored, NOTHING, "use the TCP services ConfigMap; proxy configuration text is never executed"),
    row("temporal-redirect", Ignored, NOTHING, REDIRECT),
    row("temporal-redirect-code", Ignored, NOTHING, REDIRECT),
    row("upstream-hash-by", Implemented, NOTHING, ""),
    row("upstream-hash-by-subset", Ignored, OFF, TUNING),
    row("upstream-hash-by-subset-size", Ignored, NOTHING, TUNING),
    row("upstream-vhost", Ignored, NOTHING, "let the backend accept the host that clients send"),
    row("use-forwarded-headers", Nonexistent, NOTHING, "list trusted networks in the gateway's own settings"),
    row("use-port-in-redirects", Ignored, OFF, REDIRECT),
    row("use-regex", Implemented, NOTHING, ""),
    row("websocket-services", Nonexistent, NOTHING, "remove the annotation; WebSocket works without it"),
    row("whitelist-source-range", Closes, NOTHING, SOURCE_RANGE),
    row("x-forwarded-prefix", Ignored, NOTHING, HEADERS),
];

#[cfg(test)]
mod tests {
    use super::ROWS;

    #[test]
    fn rows_are_sorted_so_that_they_are_found() {
        for pair in ROWS.windows(2) {
            assert!(pair[0].key < pair[1].key, "{} before {}", pair[0].key, pair[1].key);
        }
        for row in ROWS {
            assert_eq!(row.remedy.is_empty(), row.effect == super::Effect::Implemented, "{}", row.key);
        }
    }
}
