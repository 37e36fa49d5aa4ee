//! What an API server says of itself and of us, for who looks for what is wrong: rights, kube-proxy, the time.

use super::client::KubeClient;
use crate::rights::Question;
use http::Request;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// What is not allowed, of what was asked.
    pub denied: Vec<Question>,
    /// The configuration of kube-proxy (YAML), where its ConfigMap is there and may be read.
    pub kube_proxy: Option<String>,
    /// The header field `Date` of an answer.
    pub date: Option<String>,
}

impl KubeClient {
    /// Asks whether each of these is allowed, and what else there is to know. Changes nothing.
    ///
    /// # Errors
    /// Where the server does not answer, or does not say what is allowed.
    pub async fn examine(&self, questions: Vec<Question>) -> Result<ClusterFacts, kube::Error> {
        let client = self.build()?;
        let date = date(&client).await?;
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let mut denied = Vec::new();
        for question in questions {
            let answer = reviews.create(&PostParams::default(), &review(&question)).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                denied.push(question);
            }
        }
        Ok(ClusterFacts { denied, kube_proxy: kube_proxy(client).await, date })
    }
}

fn review(question: &Question) -> SelfSubjectAccessReview {
    let (resource, subresource) = match question.right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (question.right.resource, None),
    };
    let attributes = ResourceAttributes {
        group: Some(question.right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(question.verb.to_owned()),
        namespace: question.namespace.as_deref().map(str::to_owned),
        name: question.name.as_deref().map(str::to_owned),
        ..ResourceAttributes::default()
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..SelfSubjectAccessReview::default()
    }
}

/// Everybody may ask for the version.
async fn date(client: &Client) -> Result<Option<String>, kube::Error> {
    let request = Request::get("/version").body(Body::empty()).map_err(kube::Error::HttpError)?;
    let answer = client.send(request).await?;
    Ok(answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned))
}

/// Where kubeadm puts it. Whoever may not read it, or has none, is told nothing.
async fn kube_proxy(client: Client) -> Option<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    let map = maps.get_opt("kube-proxy").await.ok().flatten()?;
    map.data?.remove("config.conf")
}
