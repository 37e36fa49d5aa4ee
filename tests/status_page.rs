//! The status page in a real Chromium: clicked through, typed into, and compared with what the admin API says.

mod browser_support;
mod cli_support;

use browser_support::Browser;
use cli_support::{Gateway, free_address, get, manifests};
use serde_json::{Value, json};
use sluicegate_echo::EchoBackend;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

const SECTIONS: [&str; 8] =
    ["overview", "vips", "routes", "explain", "backends", "certificates", "rejections", "changes"];

/// What WebDriver calls keys.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const DOWN: &str = "\u{E015}";

/// Nobody may write this into the page as markup.
const HOSTILE: &str = "/<b>bold</b><img/src=x>";

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: public\n\
     spec:\n  controller: sluicegate.io/ingress\n---\n";

fn ingress(name: &str, host: &str, paths: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: shop\n\
         spec:\n  ingressClassName: public\n  tls:\n  - hosts: [{host}]\n    secretName: shop-tls\n  rules:\n\
         \x20 - host: {host}\n    http:\n      paths:\n"
    );
    for (path, kind, service) in paths {
        write!(
            text,
            "      - path: {path:?}\n        pathType: {kind}\n        backend:\n          service:\n\
             \x20           name: {service}\n            port:\n              number: 80\n"
        )
        .expect("a String");
    }
    text + "---\n"
}

fn service(name: &str, pod: Option<SocketAddr>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\nspec:\n  ports:\n  - port: 80\n---\n"
    );
    if let Some(pod) = pod {
        write!(
            text,
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: shop\n\
             \x20 labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n- port: {}\n\
             endpoints:\n- addresses: [\"{}\"]\n  targetRef:\n    kind: Pod\n    name: {name}-0\n---\n",
            pod.port(),
            pod.ip()
        )
        .expect("a String");
    }
    text
}

fn secret() -> String {
    let pair = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).expect("a certificate");
    let block = |text: String| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: shop-tls\n  namespace: shop\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        block(pair.cert.pem()),
        block(pair.signing_key.serialize_pem())
    )
}

const VIPS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: vips\n  namespace: sluicegate-system\n\
     data:\n  \"192.0.2.10\": shop/web:TUNNEL\n  \"2001-db8--10\": \"\"\n";

/// A gateway with something in every section, and somebody who sends requests.
struct Site {
    folder: TempDir,
    gateway: Gateway,
    _runtime: tokio::runtime::Runtime,
    _pod: EchoBackend,
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
}

impl Site {
    fn start(admin: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
        let pod = runtime.block_on(EchoBackend::builder("web").start()).expect("a backend");
        let shop = ingress("shop", "shop.example", &[("/", "Prefix", "web"), ("/empty", "Prefix", "empty")]);
        let odd = ingress("odd", "odd.example", &[(HOSTILE, "Exact", "web"), ("relative", "Prefix", "web")]);
        let services = service("web", Some(pod.address())) + &service("empty", None);
        let site = CLASS.to_owned() + &shop + &odd + &services;
        let folder = manifests(&[("site.yaml", &site), ("secret.yaml", &secret()), ("vips.yaml", VIPS)]);
        let gateway = gateway(&folder, admin, &[]);
        let (http, stop) = (gateway.http, Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let client = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (host, path) in [("shop.example", "/"), ("shop.example", "/empty"), ("nobody.example", "/")] {
                    // The gateway may be on its way out.
                    let _answer = cli_support::try_get(http, host, path);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { folder, gateway, _runtime: runtime, _pod: pod, stop, client: Some(client) }
    }

    /// A section as the API has it.
    fn state(&self, section: &str) -> Value {
        let admin = self.gateway.admin;
        let answer = get(admin, &admin.to_string(), &format!("/api/v1/state?section={section}"));
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str::<Value>(body).expect("JSON")[section].clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(client) = self.client.take() {
            let _ended = client.join();
        }
    }
}

fn gateway(folder: &TempDir, admin: SocketAddr, more: &[&str]) -> Gateway {
    let (folder, admin) = (folder.path().to_str().expect("UTF-8"), admin.to_string());
    let any = "127.0.0.1:0";
    let mut arguments =
        vec!["--manifests", folder, "--http", any, "--https", any, "--metrics", any, "--forward", "off"];
    arguments.extend(["--admin", &admin, "--log-format", "json"]);
    arguments.extend(more);
    Gateway::start_with(&arguments, &[])
}

fn open(browser: &Browser, gateway: &Gateway) {
    browser.go(&format!("http://{}/", gateway.admin));
    browser.wait_until("document.querySelector('#link').textContent === 'Live'");
}

#[track_caller]
fn visit(browser: &Browser, section: &str) {
    browser.click(&format!("#nav a[href='#{section}']"));
    browser.wait_until(&format!("!document.querySelector('#{section}').hidden"));
    let shown = browser.value("[...document.querySelectorAll('main > section')].filter((one) => !one.hidden).length");
    assert_eq!(shown, 1, "{section}");
    assert_eq!(browser.texts("#nav a[aria-current='page']").len(), 1, "{section}");
    // Whoever listens hears where it is.
    assert_eq!(browser.value("document.activeElement.id"), json!(format!("{section}-title")));
}

fn rows(section: &str) -> String {
    format!("document.querySelectorAll('#{section} tbody tr').length")
}

fn strings<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().expect("a list").iter().map(|one| one[key].as_str().unwrap_or_default()).collect()
}

/// Nothing was complained of, and nothing was asked of anybody else.
#[track_caller]
fn check_quiet(browser: &Browser, admin: SocketAddr) {
    // That a question was refused is said by the browser too, which is no complaint about the page.
    let console: Vec<String> =
        browser.console().into_iter().filter(|line| !line.contains("/api/v1/explain?")).collect();
    assert!(console.is_empty(), "the console has {console:#?}");
    let own = format!("http://{admin}/");
    let requests = browser.requests();
    assert!(requests.iter().any(|url| url.starts_with(&own)), "no request was recorded: {requests:#?}");
    let elsewhere: Vec<_> = requests.iter().filter(|url| url.starts_with("http") && !url.starts_with(&own)).collect();
    assert!(elsewhere.is_empty(), "asked of others: {elsewhere:#?}");
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn every_section_shows_what_the_api_says() {
    let site = Site::start(free_address());
    let browser = Browser::start();
    open(&browser, &site.gateway);
    overview(&browser);
    routes(&browser, &site);
    explain(&browser);
    backends(&browser, &site);
    vips(&browser, &site);
    certificates(&browser, &site);
    rejections(&browser, &site);
    changes(&browser, &site);
    check_quiet(&browser, site.gateway.admin);
}

/// Traffic is drawn, and said in words.
fn overview(browser: &Browser) {
    assert_eq!(browser.text("#standing"), "Ready");
    browser.wait_until("Number(document.querySelector('#overview .tile b').textContent) > 0");
    browser.wait_until("document.querySelectorAll('#overview svg.plot path.line').length >= 4");
    let alternatives = browser
        .run("return [...document.querySelectorAll('svg.plot')].map((one) => one.getAttribute('aria-label'));", &[]);
    let requests = alternatives[0].as_str().unwrap_or_default();
    assert!(requests.contains("Requests over the last 5 minutes") && requests.contains("5xx: now"), "{requests}");
    browser.wait_until("document.querySelector('#overview .halves').textContent.includes('shop/web:80')");
    // By the rules' hosts: what clients make up gets no row.
    let names = browser
        .run("return [...document.querySelectorAll('#overview .halves tbody th')].map((one) => one.textContent);", &[]);
    let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(names.contains(&"shop.example") && !names.contains(&"nobody.example"), "{names:?}");
    browser.click("#overview .ranges label:last-child");
    browser.wait_until("document.querySelector('svg.plot').getAttribute('aria-label').includes('last 60 minutes')");
    browser.wait_until("document.querySelector('#overview dl.facts').textContent.includes('a folder of manifests')");
}

/// Found by keyboard alone, and never markup.
fn routes(browser: &Browser, site: &Site) {
    let state = site.state("routes");
    visit(browser, "routes");
    browser.wait_until(&format!("{} === {}", rows("routes"), state.as_array().expect("routes").len()));
    let shown = browser.texts("#routes tbody tr");
    for (row, route) in shown.iter().zip(state.as_array().expect("routes")) {
        for key in ["host", "path", "backend", "ingress", "field"] {
            assert!(row.contains(route[key].as_str().unwrap_or_default()), "{key} of {route} in {row:?}");
        }
    }
    assert!(shown.iter().any(|row| row.contains(HOSTILE)), "{shown:?}");
    assert_eq!(browser.value("document.querySelectorAll('main b.x, main img').length"), 0);
    assert_eq!(
        browser.value("[...document.querySelectorAll('main b')].some((one) => one.textContent === 'bold')"),
        false
    );
    // From the heading, the next stop is the search.
    browser.keys(TAB);
    assert_eq!(browser.value("document.activeElement.type"), "search");
    browser.keys("EMPTY shop");
    browser.wait_until(&format!("{} === 1", rows("routes")));
    assert!(browser.text("#routes tbody tr").contains("shop/empty:80"));
    assert_eq!(
        browser.text("#routes [role=status]"),
        format!("1 of {} routes", state.as_array().expect("routes").len())
    );
    browser.keys(" nothing-like-it");
    browser.wait_until("document.querySelector('#routes .empty').innerText.includes('Fewer words')");
    // A link of a row asks who takes it.
    browser.run("document.querySelector('#routes input').value = '';", &[]);
    browser.keys("odd");
    browser.wait_until(&format!("{} === 1", rows("routes")));
    browser.click("#routes tbody a[href^='#explain']");
    browser.wait_until("document.querySelector('#result')?.textContent.includes('Ingress shop/odd')");
}

/// Asked by keyboard: a URL, nonsense, and a packet where none are forwarded.
fn explain(browser: &Browser) {
    visit(browser, "explain");
    browser.keys(TAB);
    assert_eq!(browser.value("document.activeElement.id"), "target");
    browser.run("document.activeElement.select();", &[]);
    browser.keys(&format!("https://shop.example/empty/x{ENTER}"));
    browser.wait_until("document.querySelector('#result')?.textContent.includes('shop/empty:80')");
    let candidates = browser.texts("#answer tbody tr");
    assert!(candidates[0].starts_with("won") && candidates[0].contains("/empty"), "{candidates:?}");
    assert!(candidates[1].starts_with("lost") && candidates[1].contains("comes before it"), "{candidates:?}");
    assert!(browser.text("#answer dl.facts").contains("certificate shop/shop-tls"));
    for (question, answer) in [
        ("ftp://shop.example/", "the scheme is neither http nor https"),
        ("tcp,198.51.100.7:40000,192.0.2.10:80", "forward"),
        ("tcp,nonsense", "nonsense"),
    ] {
        browser.run("document.activeElement.select();", &[]);
        browser.keys(&format!("{question}{ENTER}"));
        browser.wait_until(&format!("document.querySelector('#answer .notice.bad')?.textContent.includes({answer:?})"));
    }
}

fn backends(browser: &Browser, site: &Site) {
    visit(browser, "backends");
    let state = site.state("backends");
    let endpoints: usize =
        state.as_array().expect("backends").iter().map(|one| one["endpoints"].as_array().map_or(0, Vec::len)).sum();
    let all = state.as_array().expect("backends").len() + endpoints;
    browser.wait_until(&format!("{} === {all}", rows("backends")));
    let shown = browser.texts("#backends tr.outer");
    assert_eq!(shown.len(), state.as_array().expect("backends").len());
    for (row, backend) in shown.iter().zip(state.as_array().expect("backends")) {
        assert!(row.contains(backend["id"].as_str().unwrap_or_default()), "{row}");
        if let Some(why) = backend["unavailable"].as_str() {
            assert!(row.contains("unavailable") && row.contains(why), "{row}");
        }
    }
    // Counts go on while one looks.
    let requests = "Number([...document.querySelectorAll('#backends tr.outer')].find((one) => one.textContent.includes('shop/web:80')).cells[3].textContent.replaceAll(',', ''))";
    let known = || {
        let backends = site.state("backends");
        let web = backends.as_array().expect("backends").iter().find(|one| one["id"] == "shop/web:80").expect("it");
        web["traffic"]["requests"].as_u64().expect("a count")
    };
    let later = known() + 20;
    browser.wait_until(&format!("{requests} >= {later}"));
    let shown = browser.value(requests).as_u64().expect("a count");
    assert!(shown <= known(), "{shown} of {}", known());
}

fn vips(browser: &Browser, site: &Site) {
    visit(browser, "vips");
    let state = site.state("vips");
    let addresses = strings(&state, "address");
    browser.wait_until(&format!("document.querySelectorAll('#vips details').length === {}", addresses.len()));
    assert_eq!(browser.texts("#vips summary h3"), addresses);
    assert!(browser.text("#vips details").contains("shop/web"));
    assert!(browser.texts("#vips details")[1].contains("Announced alone"));
}

fn certificates(browser: &Browser, site: &Site) {
    visit(browser, "certificates");
    let state = site.state("certificates");
    browser.wait_until("document.querySelector('#certificates tbody tr') !== null");
    let row = browser.text("#certificates tbody tr");
    let certificate = &state[0];
    for key in ["id", "fingerprint"] {
        assert!(row.contains(certificate[key].as_str().expect(key)), "{row}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let days = (certificate["not_after"].as_u64().expect("seconds") - now) / 86_400;
    let shown: u64 = browser.text("#certificates tbody td.number").replace(',', "").parse().expect("days");
    assert!(shown.abs_diff(days) <= 1, "{shown} and {days}");
    let names = site.state("server_names");
    assert_eq!(browser.texts("#certificates .table:last-of-type tbody th"), strings(&names, "name"));
}

fn rejections(browser: &Browser, site: &Site) {
    visit(browser, "rejections");
    let state = site.state("rejections");
    let all = state.as_array().expect("rejections");
    assert!(!all.is_empty());
    browser.wait_until(&format!("{} === {}", rows("rejections"), all.len()));
    for (row, rejection) in browser.texts("#rejections tbody tr").iter().zip(all) {
        for key in ["verdict", "field", "reason", "remedy"] {
            assert!(row.contains(rejection[key].as_str().expect(key)), "{key} of {rejection} in {row}");
        }
    }
    assert_eq!(browser.text("#nav [data-count=rejections]"), all.len().to_string());
}

/// A change is seen without anybody asking for it.
fn changes(browser: &Browser, site: &Site) {
    visit(browser, "changes");
    let before = site.state("changes").as_array().expect("changes").len();
    browser.wait_until(&format!("{} === {before}", rows("changes")));
    let late = ingress("late", "late.example", &[("/", "Prefix", "web")]);
    std::fs::write(site.folder.path().join("late.yaml"), late).expect("written");
    browser.wait_until(&format!("{} > {before}", rows("changes")));
    let row = browser.text("#changes tbody tr");
    assert!(row.contains("Ingress shop/late") && row.contains("late.example") && row.contains("ms"), "{row}");
    let newest = site.state("changes")[0].clone();
    assert!(row.contains(&format!("generation {}", newest["generation"])), "{row}");
    let routes = site.state("routes").as_array().expect("routes").len();
    browser.wait_until(&format!("document.querySelector('#nav [data-count=routes]').textContent === '{routes}'"));
}

/// The least contrast of any text with what is behind it, and whose that is (WCAG 2.2, 1.4.3).
const CONTRAST: &str = r"
    const numbers = (color) => {
        const canvas = document.createElement('canvas').getContext('2d');
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (color) => {
        const [red, green, blue] = color.slice(0, 3).map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const color = numbers(getComputedStyle(at).backgroundColor);
            if (color[3] === 255) return color;
        }
        return [255, 255, 255, 255];
    };
    let least = [21, ''];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest('.hidden, .skip, caption, noscript, option')) continue;
        const style = getComputedStyle(node);
        const [a, b] = [numbers(node.closest('svg') ? style.fill : style.color), behind(node)].map(light).sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < least[0]) least = [ratio, node.outerHTML.slice(0, 200)];
    }
    return least;
";

/// What has no name for who cannot see it.
const NAMELESS: &str = r"
    const bad = [];
    for (const field of document.querySelectorAll('input, select')) {
        if (!field.labels.length && !field.ariaLabel) bad.push(field.outerHTML);
    }
    for (const table of document.querySelectorAll('table')) {
        if (!table.caption?.textContent.trim()) bad.push('a table without a caption');
        if (table.querySelector('thead th:not([scope=col])')) bad.push('a column without a scope');
    }
    for (const one of document.querySelectorAll('button, a[href]')) {
        if (one.checkVisibility() && !one.textContent.trim() && !one.ariaLabel) bad.push(one.outerHTML);
    }
    for (const id of ['main', 'nav']) if (!document.getElementById(id)) bad.push(id);
    if (document.querySelectorAll('h1').length !== 1) bad.push('h1');
    return bad;
";

#[test]
#[ignore = "needs chromium and chromedriver"]
fn it_is_readable_in_both_themes_and_on_a_phone() {
    let site = Site::start(free_address());
    let browser = Browser::start();
    open(&browser, &site.gateway);
    browser.wait_until("Number(document.querySelector('#overview .tile b').textContent) > 0");
    // The switch by keyboard; the choice outlives the page.
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(ground);
    browser.run("document.querySelector('#theme').focus();", &[]);
    browser.keys(&format!("{DOWN}{DOWN}"));
    browser.wait_until("document.documentElement.dataset.theme === 'dark'");
    let dark = browser.value(ground);
    assert_ne!(light, dark);
    browser.reload();
    browser.wait_until("document.querySelector('#link').textContent === 'Live'");
    assert_eq!((browser.value(ground), browser.value("document.querySelector('#theme').value")), (dark, json!("dark")));
    for theme in ["dark", "light"] {
        browser.run("document.documentElement.dataset.theme = arguments[0];", &[json!(theme)]);
        for section in SECTIONS {
            visit(&browser, section);
            std::thread::sleep(Duration::from_millis(500));
            let least = browser.run(CONTRAST, &[]);
            assert!(least[0].as_f64() >= Some(4.5), "{theme} {section}: {least}");
            assert_eq!(browser.run(NAMELESS, &[]), json!([]), "{section}");
        }
    }
    browser.resize(360, 740);
    for section in SECTIONS {
        visit(&browser, section);
        std::thread::sleep(Duration::from_millis(300));
        let width = browser.value("document.documentElement.scrollWidth");
        assert!(width.as_u64() <= Some(360), "{section} is {width} wide");
    }
    check_quiet(&browser, site.gateway.admin);
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn it_says_when_it_is_stale_and_comes_back_by_itself() {
    let admin = free_address();
    let browser = Browser::start();
    let folder = manifests(&[("class.yaml", CLASS)]);
    let first = gateway(&folder, admin, &[]);
    open(&browser, &first);
    for (section, advice) in [
        ("routes", "Apply an Ingress"),
        ("backends", "Backends come with"),
        ("vips", "Name one and its Service"),
        ("certificates", "Name a Secret"),
    ] {
        visit(&browser, section);
        browser.wait_until(&format!(
            "document.querySelector('#{section} .empty:not([hidden])')?.textContent.includes({advice:?})"
        ));
    }
    drop(first);
    browser.wait_until("document.querySelector('#notices').textContent.includes('Stale')");
    assert!(browser.text("#link").starts_with("Stale"));
    browser.wait_until("document.querySelector('#announce').textContent.includes('stale')");
    let _second = gateway(&folder, admin, &[]);
    browser.wait_until("document.querySelector('#link').textContent === 'Live'");
    browser.wait_until("document.querySelector('#notices').textContent === ''");
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn it_asks_for_the_token_and_keeps_it_for_the_tab() {
    let folder =
        manifests(&[("site.yaml", &(CLASS.to_owned() + &ingress("shop", "shop.example", &[("/", "Prefix", "web")])))]);
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef-secret\n").expect("written");
    let gateway = gateway(&folder, free_address(), &["--admin-token-file", token.to_str().expect("UTF-8")]);
    let browser = Browser::start();
    browser.go(&format!("http://{}/#routes", gateway.admin));
    browser.wait_until("document.querySelector('#login').open");
    assert_eq!(browser.value(&rows("routes")), 0);
    assert_eq!(browser.value("document.activeElement.id"), "token");
    browser.keys(&format!("0123456789abcdef-wrong{ENTER}"));
    browser.wait_until("document.querySelector('#login-error').textContent.includes('does not take')");
    browser.keys(&format!("0123456789abcdef-secret{ENTER}"));
    browser.wait_until("document.querySelector('#link').textContent === 'Live'");
    browser.wait_until(&format!("{} === 1", rows("routes")));
    browser.reload();
    browser.wait_until(&format!("{} === 1", rows("routes")));
    assert_eq!(browser.value("document.querySelector('#login').open"), false);
    // Neither the address nor the page shows it.
    assert_eq!(browser.value("document.documentElement.outerHTML.includes('-secret')"), false);
    assert_eq!(browser.value("location.href.includes('secret')"), false);
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn twenty_thousand_routes_stay_fluid() {
    let mut text = CLASS.to_owned();
    for host in 0..200 {
        let paths: Vec<String> = (0..100).map(|path| format!("/section-{path}")).collect();
        let paths: Vec<(&str, &str, &str)> = paths.iter().map(|path| (path.as_str(), "Prefix", "web")).collect();
        text += &ingress(&format!("site-{host}"), &format!("host-{host}.example"), &paths);
    }
    let folder = manifests(&[("site.yaml", &text)]);
    let gateway = gateway(&folder, free_address(), &[]);
    let browser = Browser::start();
    open(&browser, &gateway);
    visit(&browser, "routes");
    browser.wait_until("document.querySelector('#routes [role=status]').textContent === '20,000 routes'");
    // What is not looked at is not written; more comes when somebody scrolls there.
    let first = browser.value(&rows("routes")).as_u64().expect("rows");
    assert!((100..=300).contains(&first), "{first}");
    browser.run("window.scrollTo(0, document.documentElement.scrollHeight);", &[]);
    browser.wait_until(&format!("{} > {first}", rows("routes")));
    assert!(browser.value(&rows("routes")).as_u64() < Some(2_000));
    let took = browser.run(
        "const input = document.querySelector('#routes input');
         const begun = performance.now();
         for (const text of ['h', 'host-17', 'host-171.example section-42', 'host-171.example /section-42']) {
             input.value = text;
             input.dispatchEvent(new Event('input'));
         }
         document.body.getBoundingClientRect();
         return (performance.now() - begun) / 4;",
        &[],
    );
    assert_eq!(browser.texts("#routes tbody th"), ["host-171.example"]);
    // A stroke that takes a tenth of a second is felt; the machine of the test may be five times as slow as a desk.
    assert!(took.as_f64() < Some(500.0), "{took} ms for a stroke");
}
