"""Kubernetes manifests for Sluicegate, as text: what a cluster would hold for the same routes."""

import base64
import time
from pathlib import Path

NAMESPACE = "bench"

INGRESS_CLASS = """\
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: sluicegate
spec:
  controller: sluicegate.io/ingress
"""


def secret(certificate, key, name="tls", namespace=NAMESPACE):
    """A TLS Secret from two PEM files."""
    encoded = {name: base64.b64encode(Path(path).read_bytes()).decode() for name, path in (("crt", certificate), ("key", key))}
    return f"""\
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: {name}
  namespace: {namespace}
data:
  tls.crt: {encoded["crt"]}
  tls.key: {encoded["key"]}
"""


def service(name, namespace=NAMESPACE):
    """A Service with one port called http."""
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  selector:
    app: {name}
  ports:
  - name: http
    port: 80
    targetPort: http
"""


def slice_of(name, addresses, port, namespace=NAMESPACE):
    """The EndpointSlice of a Service."""
    endpoints = "".join(
        f"""\
- addresses: [{address}]
  conditions: {{ready: true, serving: true, terminating: false}}
  nodeName: node-{at % 500}
  targetRef: {{kind: Pod, name: {name}-{at}, namespace: {namespace}}}
"""
        for at, address in enumerate(addresses)
    )
    return f"""\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-x7k2p
  namespace: {namespace}
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
- name: http
  port: {port}
  protocol: TCP
endpoints:
{endpoints}"""


def ingress(name, host, paths, namespace=NAMESPACE, tls="tls"):
    """An Ingress of one host; `paths` are (path, Service)."""
    rules = "".join(
        f"""\
      - path: {path}
        pathType: Prefix
        backend:
          service:
            name: {backend}
            port:
              name: http
"""
        for path, backend in paths
    )
    secure = f"  tls:\n  - hosts: [{host}]\n    secretName: {tls}\n" if tls else ""
    return f"""\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  namespace: {namespace}
spec:
  ingressClassName: sluicegate
{secure}  rules:
  - host: {host}
    http:
      paths:
{rules}"""


def write(path, *documents):
    """One file of several documents, put in place at once, as deployment tools do. Returns the moment (perf_counter)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text("---\n".join(documents))
    moment = time.perf_counter()
    beside.rename(path)
    return moment


def compared_routes(folder, hosts, upstream_port, certificate, key):
    """The manifests that stand beside the other proxies' configurations: the same hosts, paths and backend."""
    folder = Path(folder)
    write(folder / "class.yaml", INGRESS_CLASS)
    write(folder / "tls.yaml", secret(certificate, key))
    write(folder / "web.yaml", service("web"), slice_of("web", ["127.0.0.1"], upstream_port))
    paths = [("/api", "web"), ("/static", "web"), ("/", "web")]
    for at, host in enumerate(hosts):
        write(folder / "ingresses" / f"{at:05}.yaml", ingress(f"web-{at}", host, paths))
