//! The status page: files that are embedded and tell nothing by themselves. What they show they ask of the API.
//!
//! The browser is told to run and load nothing but these files, and to make no markup out of text: what objects say
//! stays text, whoever wrote it.

use crate::answer::{Answer, text};
use http::StatusCode;
use http::header::{self, HeaderValue};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Every file: path, type and content.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("page/index.html")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/page/page.css", STYLE, include_str!("page/page.css")),
    ("/page/main.js", SCRIPT, include_str!("page/main.js")),
    ("/page/api.js", SCRIPT, include_str!("page/api.js")),
    ("/page/backends.js", SCRIPT, include_str!("page/backends.js")),
    ("/page/certificates.js", SCRIPT, include_str!("page/certificates.js")),
    ("/page/changes.js", SCRIPT, include_str!("page/changes.js")),
    ("/page/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/page/explain.js", SCRIPT, include_str!("page/explain.js")),
    ("/page/format.js", SCRIPT, include_str!("page/format.js")),
    ("/page/overview.js", SCRIPT, include_str!("page/overview.js")),
    ("/page/plot.js", SCRIPT, include_str!("page/plot.js")),
    ("/page/rejections.js", SCRIPT, include_str!("page/rejections.js")),
    ("/page/routes.js", SCRIPT, include_str!("page/routes.js")),
    ("/page/table.js", SCRIPT, include_str!("page/table.js")),
    ("/page/theme.js", SCRIPT, include_str!("page/theme.js")),
    ("/page/vips.js", SCRIPT, include_str!("page/vips.js")),
];

/// Scripts, styles, pictures and requests go to this server alone; nothing is inline, nothing is framed, and no text
/// becomes markup (trusted types without a policy).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// True where the path is one of the page's files.
pub(crate) fn has(path: &str) -> bool {
    FILES.iter().any(|(known, ..)| *known == path)
}

/// The file at a path.
pub(crate) fn answer(path: &str) -> Option<Answer> {
    let (_, content_type, content) = FILES.iter().find(|(known, ..)| *known == path)?;
    let mut answer = text(StatusCode::OK, content_type, *content);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    Some(answer)
}
