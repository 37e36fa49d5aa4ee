//! The gateway, wired in the order in which traffic needs it: listeners, probes, the first state, then readiness.

use crate::answers::Answers;
use crate::api_server::ApiServer;
use crate::control::{Control, Message, Parts, Status, View};
use crate::director::{Director, DirectorSettings};
use crate::telemetry::Telemetry;
use crate::webhook::LoopJudge;
use anyhow::{Context as _, anyhow, bail};
use sluicegate_admin::{AdminServer, AdminSettings};
use sluicegate_admission::{Webhook, WebhookSettings};
use sluicegate_config::{CertificateId, Kind, NamespacedName, ObjectRef, Settings};
use sluicegate_otlp::OtlpSettings;
use sluicegate_proxy::{Proxy, ProxySettings};
use sluicegate_source::write::{Writer, WriterSettings};
use sluicegate_source::{Directory, DirectorySettings, Kube, KubeClient, KubeSettings, Login, Wishes};
use sluicegate_telemetry::{AccessLogSettings, Metrics, MetricsSettings, RequestSinks};
use sluicegate_translate::{Controller, ObjectChange, PublishSettings};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Everything that a gateway is started with.
pub struct GatewaySettings {
    pub source: SourceSettings,
    pub translate: Settings,
    pub proxy: ProxySettings,
    pub admin: AdminSettings,
    /// Its number of workers is that of `proxy`.
    pub metrics: MetricsSettings,
    /// `None` = requests are not logged.
    pub access_log: Option<AccessLogSettings>,
    /// `None` = no spans are made.
    pub spans: Option<OtlpSettings>,
    /// Statuses are taken back when it is shut down.
    pub clear_statuses: bool,
    /// Virtual IPs; `None` = no packet is forwarded.
    pub director: Option<DirectorSettings>,
}

/// Where objects come from.
pub enum SourceSettings {
    /// A watched folder.
    Manifests(DirectorySettings),
    /// An API server.
    Cluster(Box<ClusterSettings>),
}

/// How a cluster is read and answered.
pub struct ClusterSettings {
    pub login: Login,
    pub kube: KubeSettings,
    /// Nothing is written where there is none.
    pub writer: Option<WriterSettings>,
    pub publish: PublishSettings,
    /// The kinds whose statuses and Events this role writes.
    pub kinds: &'static [Kind],
    /// Where the API server asks before it writes objects, and the kinds that this role judges.
    pub webhook: Option<(WebhookSettings, &'static [Kind])>,
}

/// What watches them. Dropped, it ends.
enum Source {
    Manifests(#[expect(dead_code, reason = "held while it is to run")] Directory),
    Cluster(#[expect(dead_code, reason = "held while it is to run")] Kube),
}

/// A running gateway. Dropping it ends it without draining.
pub struct Gateway {
    // In the order in which they end: nobody asks and nothing changes before the loop is gone.
    webhook: Option<Webhook>,
    admin: AdminServer,
    source: Source,
    control: Control,
    director: Option<Arc<Director>>,
    proxy: Arc<Proxy>,
    telemetry: Arc<Telemetry>,
    status: Arc<Status>,
    clear_statuses: bool,
}

impl Gateway {
    /// Binds everything, then reads the manifests in the background.
    ///
    /// # Errors
    /// Where an address, a file or a setting does not do; the message names it and says what to do.
    pub fn start(mut settings: GatewaySettings) -> anyhow::Result<Self> {
        if settings.proxy.workers == 0 {
            settings.proxy.workers = std::thread::available_parallelism().map_or(1, usize::from);
        }
        if let Some(secret) = &settings.translate.default_certificate {
            if let SourceSettings::Manifests(directory) = &settings.source {
                check_certificate(&directory.paths, secret)?;
            }
            let NamespacedName { namespace, name } = secret.clone();
            settings.proxy.default_certificate = Some(CertificateId { namespace, name });
        }
        raise_file_limit();
        let serves_http = !settings.proxy.http.is_empty() || !settings.proxy.https.is_empty();
        let metrics = Metrics::with(MetricsSettings { workers: settings.proxy.workers, ..settings.metrics });
        let telemetry = Telemetry::start(settings.access_log, settings.spans, &metrics)?;
        let sinks = Some(Arc::clone(&telemetry) as Arc<dyn RequestSinks>);
        let proxy = Arc::new(Proxy::start(settings.proxy, Arc::clone(&metrics), sinks)?);
        let status = Arc::new(Status::default());
        let director = settings
            .director
            .map(|director| Director::start(director, Arc::clone(&metrics)))
            .transpose()?
            .map(Arc::new);
        let parts = Parts {
            proxy: Arc::clone(&proxy),
            telemetry: serves_http.then(|| Arc::clone(&telemetry)),
            director: director.clone(),
            metrics: Arc::clone(&metrics),
            status: Arc::clone(&status),
            api_server: None,
            pools: Arc::new(settings.translate.vip_pools.clone()),
            changes: Arc::default(),
        };
        let webhook = match &mut settings.source {
            SourceSettings::Cluster(cluster) => cluster.webhook.take(),
            SourceSettings::Manifests(_) => None,
        };
        let (control, start_source, api_server) = match settings.source {
            SourceSettings::Manifests(directory) => follow_folder(settings.translate, directory, parts.clone())?,
            SourceSettings::Cluster(cluster) => follow_cluster(settings.translate, cluster, parts.clone())?,
        };
        if let Some(server) = api_server.clone() {
            metrics.set_source(Arc::new(move || server.counts(Instant::now())));
        }
        let view = View::new(&control, Parts { api_server, ..parts });
        let webhook = webhook.map(|(webhook, kinds)| {
            let (messages, status) = (control.messages(), Arc::clone(&status));
            Webhook::start(webhook, Arc::new(LoopJudge { messages, status, kinds }), Arc::clone(&metrics))
        });
        let webhook = webhook.transpose()?;
        let admin = AdminServer::start(settings.admin, Arc::new(view), metrics)?;
        let source = start_source()?;
        let listening = proxy.addresses();
        tracing::info!(
            http = ?listening.http,
            https = ?listening.https,
            metrics = ?admin.addresses().metrics,
            admin = %admin.addresses().admin,
            "listening"
        );
        if let Some(webhook) = &webhook {
            tracing::info!(address = %webhook.address(), "the webhook listens");
        }
        let clear_statuses = settings.clear_statuses;
        Ok(Self { webhook, admin, source, control, director, proxy, telemetry, status, clear_statuses })
    }

    /// The proxy.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// Where the admin API is.
    pub fn admin_address(&self) -> std::net::SocketAddr {
        self.admin.addresses().admin
    }

    /// Waits until the first state is served.
    pub fn wait_until_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.status.is_applied() {
            if start.elapsed() > limit {
                bail!("the first state is not served after {limit:?}");
            }
            self.check_alive()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// True once the first state is served.
    pub fn is_ready(&self) -> bool {
        self.status.is_applied()
    }

    /// Fails where a thread without which nothing goes on has ended.
    pub fn check_alive(&self) -> anyhow::Result<()> {
        if !self.proxy.is_alive() {
            bail!("a worker ended unexpectedly; the log says why");
        }
        if !self.control.is_alive() {
            bail!("the controller loop ended unexpectedly; the log says why");
        }
        Ok(())
    }

    /// Opens files of logs anew, for who has renamed them.
    pub fn reopen_logs(&self) {
        if self.telemetry.reopen() {
            tracing::info!("SIGHUP: the access log is opened anew");
        }
    }

    /// Readiness off and virtual IPs handed over; accepting and forwarding go on.
    pub fn lame_duck(&self) {
        self.status.leave();
        if let Some(director) = &self.director {
            director.hand_over();
        }
    }

    /// Stops accepting and lets what is under way finish, for at most so long.
    pub fn shut_down(self, limit: Duration) {
        self.status.leave();
        // Probes and metrics are answered until the last connection has ended; tables do not change any more.
        drop(self.webhook);
        drop(self.source);
        let drained = self.proxy.shutdown(limit);
        if drained.cut > 0 {
            tracing::warn!(cut = drained.cut, "connections were still open after --drain and were cut");
        }
        if self.clear_statuses {
            self.control.clear_statuses();
        }
        drop(self.control);
        self.telemetry.finish();
        self.admin.stop();
        tracing::info!(took_ms = drained.took.as_millis(), "drained");
    }
}

/// The loop, what feeds it, and the API server where there is one.
type Followed = (Control, StartSource, Option<ApiServer>);

/// Starts what watches: last, so that whoever asks is answered while the first state is read.
type StartSource = Box<dyn FnOnce() -> anyhow::Result<Source>>;

fn follow_folder(translate: Settings, directory: DirectorySettings, parts: Parts) -> anyhow::Result<Followed> {
    let control = Control::start(translate, parts, None)?;
    let messages = control.messages();
    let sink = move |event| messages.send(Message::Source(event)).is_ok();
    let start = move || Ok(Source::Manifests(Directory::watch(directory, sink).context("--manifests")?));
    Ok((control, Box::new(start), None))
}

fn follow_cluster(translate: Settings, cluster: Box<ClusterSettings>, parts: Parts) -> anyhow::Result<Followed> {
    let ClusterSettings { login, kube, writer, publish, kinds, webhook: _ } = *cluster;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(KubeClient::new(&login))?;
    let api_server = ApiServer { address: client.address(), contact: client.contact() };
    tracing::info!(api_server = api_server.address, "objects come from the cluster");
    let (wishes, granted) = Wishes::new();
    let writes = Arc::new(OnceLock::new());
    let control = Control::start(translate, parts, Some(Answers::new(wishes, Arc::clone(&writes), publish, kinds)))?;
    let (events, turns) = (control.messages(), control.messages());
    let start = move || {
        let sink = move |event| events.send(Message::Source(event)).is_ok();
        let kube = Kube::watch(client.clone(), kube, granted, sink)?;
        if let Some(settings) = writer {
            // A loop that is gone has nothing to write.
            let on_turn = move |leads| drop(turns.send(Message::Turn(leads)));
            let started = Writer::start(client, settings, on_turn)?;
            if writes.set(started).is_err() {
                bail!("the writer was started twice");
            }
        }
        Ok(Source::Cluster(kube))
    };
    Ok((control, Box::new(start), Some(api_server)))
}

/// Whoever starts it by hand is told at once that the default certificate is not there, or is none.
fn check_certificate(paths: &[PathBuf], secret: &NamespacedName) -> anyhow::Result<()> {
    let flag = format!("--default-ssl-certificate {secret}");
    let loaded = sluicegate_source::load(paths).context("--manifests")?;
    let wanted = ObjectRef::new(Kind::Secret, secret.namespace.clone(), secret.name.clone());
    let found = loaded
        .changes
        .into_iter()
        .find(|change| matches!(change, ObjectChange::Set(object) if object.reference() == wanted));
    let found = found
        .ok_or_else(|| anyhow!("{flag}: there is no such Secret in the manifests; add it or leave the flag out"))?;
    let mut controller =
        Controller::new(Settings { default_certificate: Some(secret.clone()), ..Settings::for_folder() });
    controller.apply([found], crate::check::unix_now());
    let id = CertificateId { namespace: secret.namespace.clone(), name: secret.name.clone() };
    if controller.desired().certificates.contains_key(&id) {
        return Ok(());
    }
    let why = controller.rejections().find(|rejection| rejection.object == wanted);
    Err(match why {
        Some(why) => anyhow!("{flag}: {}: {}; {}", why.field, why.reason, why.remedy),
        None => anyhow!("{flag}: the Secret holds no usable certificate; it needs tls.crt and tls.key"),
    })
}

/// Every connection is a file descriptor, and the usual soft limit of 1024 is for programs that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files cannot be raised; raise it with ulimit -n");
        }
    }
}
