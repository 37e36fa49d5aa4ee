//! A headless Chromium, driven by chromedriver over the W3C WebDriver protocol.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use fantoccini::elements::Element;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use url::{ParseError, Url};

/// Longer than anything here takes on a busy machine.
pub const AT_MOST: Duration = Duration::from_secs(60);

/// The browser. Dropping it ends it.
pub struct Browser {
    runtime: Runtime,
    client: Client,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts with a profile of its own.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (mut driver, port) = driver();
        let profile = TempDir::new().unwrap();
        let capabilities = capabilities(&profile);
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await
        });
        let client = client.unwrap_or_else(|error| {
            let _ended = driver.kill();
            panic!("chromium does not start: {error}")
        });
        Self { runtime, client, driver, _profile: profile }
    }

    pub fn go(&self, url: &str) {
        self.runtime.block_on(self.client.goto(url)).unwrap();
    }

    pub fn reload(&self) {
        self.runtime.block_on(self.client.refresh()).unwrap();
    }

    /// Runs a script in the page: the body of a function.
    #[track_caller]
    pub fn run(&self, script: &str, arguments: &[Value]) -> Value {
        let ran = self.runtime.block_on(self.client.execute(script, arguments.to_vec()));
        ran.unwrap_or_else(|error| panic!("{error}: {script}"))
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        self.run(&format!("return {expression};"), &[])
    }

    /// Waits until an expression in the page is true, in the sense of JavaScript.
    #[track_caller]
    pub fn wait_until(&self, expression: &str) {
        let begun = Instant::now();
        while !self.value(&format!("Boolean({expression})")).as_bool().unwrap() {
            if begun.elapsed() > AT_MOST {
                let seen = self.value("document.body.innerText");
                panic!("not within {AT_MOST:?}: {expression}\nthe page says:\n{}", seen.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The text of every element that a selector finds, as it is seen.
    #[track_caller]
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let found = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText.trim());",
            &[json!(selector)],
        );
        serde_json::from_value(found).unwrap()
    }

    /// The text of the first of them.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        self.texts(selector).into_iter().next().unwrap_or_else(|| panic!("there is no {selector}"))
    }

    /// Clicks as a person does: what is hidden or covered cannot be clicked.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.runtime.block_on(element.click()).unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Types into whatever has the focus.
    #[track_caller]
    pub fn keys(&self, keys: &str) {
        self.runtime.block_on(async { self.client.active_element().await?.send_keys(keys).await }).unwrap();
    }

    #[track_caller]
    fn find(&self, selector: &str) -> Element {
        self.runtime
            .block_on(self.client.find(Locator::Css(selector)))
            .unwrap_or_else(|error| panic!("{selector}: {error}"))
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.issue(Extra { path: "goog/cdp/execute", body })
    }

    /// A window of so many CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// What the console got since it was last asked.
    pub fn console(&self) -> Vec<String> {
        let entries = self.issue(Extra { path: "se/log", body: json!({ "type": "browser" }) });
        entries.as_array().unwrap().iter().map(Value::to_string).collect()
    }

    /// Every URL that was asked for since it was last asked.
    pub fn requests(&self) -> Vec<String> {
        let entries = self.issue(Extra { path: "se/log", body: json!({ "type": "performance" }) });
        let message = |entry: &Value| serde_json::from_str::<Value>(entry["message"].as_str()?).ok();
        let messages = entries.as_array().unwrap().iter().filter_map(message);
        let sent = messages.filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        sent.filter_map(|message| Some(message["message"]["params"]["request"]["url"].as_str()?.to_owned())).collect()
    }

    fn issue(&self, command: Extra) -> Value {
        self.runtime.block_on(self.client.issue_cmd(command)).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let closing = self.client.clone().close();
        // A browser that is gone needs no closing.
        let _closed = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), closing).await });
        let _ended = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}

/// A running chromedriver, and where it listens.
fn driver() -> (Child, u16) {
    let mut lines = String::new();
    for _ in 0..10 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error}; install Debian's chromium and chromium-driver"));
        let mut said = BufReader::new(driver.stdout.take().unwrap());
        if let Some(port) = port(&mut said, &mut lines) {
            // A pipe that nobody reads would stop it.
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            return (driver, port);
        }
        // It takes a free port of IPv4 and wants the same of IPv6, which another one may have.
        driver.wait().unwrap();
    }
    panic!("chromedriver does not start:\n{lines}");
}

/// It says where it listens; `None` where it ends instead.
fn port(said: &mut impl BufRead, lines: &mut String) -> Option<u16> {
    loop {
        let mut line = String::new();
        if said.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some((_, port)) = line.split_once("successfully on port ") {
            return Some(port.trim().trim_end_matches('.').parse().unwrap());
        }
        lines.push_str(&line);
    }
}

fn capabilities(profile: &TempDir) -> Capabilities {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        &profile,
    ];
    let mut options = json!({ "args": arguments });
    if let Some(binary) = binary() {
        options["binary"] = json!(binary);
    }
    let logs = json!({ "browser": "ALL", "performance": "ALL" });
    let capabilities = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": logs });
    capabilities.as_object().unwrap().clone()
}

/// Debian's name of it, if it is there; else chromedriver looks for one.
fn binary() -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join("chromium")).find(|file| file.is_file())?;
    found.into_os_string().into_string().ok()
}

/// A command of chromedriver that WebDriver does not have.
#[derive(Debug)]
struct Extra {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extra {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _url: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
