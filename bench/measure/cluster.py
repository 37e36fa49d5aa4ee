"""The manifests of a large cluster, and of one application in it whose changes are watched."""

import ipaddress
from pathlib import Path

from . import manifests

ENDPOINTS_EACH = 5
NAMESPACES = 100
PER_LARGE_FILE = 1000
# Nothing is ever sent to these endpoints; if it were, it would stay on this machine.
FIRST_ENDPOINT = ipaddress.IPv4Address("127.64.0.0")

CHANGE_HOST = "change.bench.test"
LOAD_HOST = "load.bench.test"
UPGRADE_HOST = "upgrade.bench.test"


def application(number):
    """(Ingress, Service, EndpointSlice) of one of many applications."""
    name, namespace = f"app-{number}", f"team-{number % NAMESPACES}"
    first = FIRST_ENDPOINT + number * ENDPOINTS_EACH
    addresses = [str(first + at) for at in range(ENDPOINTS_EACH)]
    return (
        manifests.ingress(name, f"{name}.bench.test", [("/", name), ("/api", name)], namespace, tls=None),
        manifests.service(name, namespace),
        manifests.slice_of(name, addresses, 8080, namespace),
    )


def write_many_files(folder, count):
    """A file for each object. Returns how many there are, and their bytes."""
    for number in range(count):
        below = Path(folder) / f"team-{number % NAMESPACES:02}"
        for kind, text in zip(("ingress", "service", "endpoints"), application(number)):
            path = below / f"app-{number}-{kind}.yaml"
            if number < NAMESPACES:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return size(folder)


def write_large_files(folder, count):
    """A file for each thousand applications. Returns how many there are, and their bytes."""
    for first in range(0, count, PER_LARGE_FILE):
        documents = [text for number in range(first, min(first + PER_LARGE_FILE, count)) for text in application(number)]
        manifests.write(Path(folder) / f"apps-{first:06}.yaml", *documents)
    return size(folder)


def size(folder):
    """(files, bytes)"""
    files = [path for path in Path(folder).rglob("*.yaml")]
    return len(files), sum(path.stat().st_size for path in files)


class Watched:
    """The application that is changed and asked: two backends that say A and B, a loaded host, upgraded connections."""

    def __init__(self, folder, certificate, ports, upgrade_port):
        self.folder = Path(folder) / "watched"
        self.a, self.b, self.upgrade_port = ports[1], ports[2], upgrade_port
        self.state = {}
        manifests.write(self.folder / "class.yaml", manifests.INGRESS_CLASS)
        manifests.write(self.folder / "tls.yaml", manifests.secret(certificate / "tls.crt", certificate / "tls.key"))
        for name, port in (("a", self.a), ("b", self.b)):
            manifests.write(self.folder / f"{name}.yaml", manifests.service(name), manifests.slice_of(name, ["127.0.0.1"], port))
        for name in ("moving", "load", "upgrade"):
            manifests.write(self.folder / f"{name}-service.yaml", manifests.service(name))
        self.endpoints("moving", "A")
        self.endpoints("load", "A")
        self.upgrade_endpoints(False)
        self.route("B")
        manifests.write(self.folder / "moving.yaml", manifests.ingress("moving", "moving." + CHANGE_HOST, [("/", "moving")]))
        self.load_route("load")
        manifests.write(self.folder / "upgrade.yaml", manifests.ingress("upgrade", UPGRADE_HOST, [("/", "upgrade")]))

    def endpoints(self, service, answer):
        """One EndpointSlice: the pods of a Service are others. Returns the moment."""
        port = self.a if answer == "A" else self.b
        return manifests.write(self.folder / f"{service}-endpoints.yaml", manifests.slice_of(service, ["127.0.0.1"], port))

    def route(self, answer):
        """One Ingress: its path leads to another Service. Returns the moment."""
        return manifests.write(self.folder / "route.yaml", manifests.ingress("route", CHANGE_HOST, [("/", answer.lower())]))

    def load_route(self, service):
        """The Ingress of the host under load."""
        manifests.write(self.folder / "load.yaml", manifests.ingress("load", LOAD_HOST, [("/", service)]))

    def upgrade_endpoints(self, away):
        """The pods behind upgraded connections: theirs, or others."""
        port = self.a if away else self.upgrade_port
        manifests.write(self.folder / "upgrade-endpoints.yaml", manifests.slice_of("upgrade", ["127.0.0.1"], port))
