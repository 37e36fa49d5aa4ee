#!/usr/bin/env bash
# Sluicegate in a cluster of kind, from this working copy: ends with a request to an Ingress, and one to a virtual IP.
#
#   deploy/kind.sh           needs docker, kind, kubectl, openssl and curl; takes some minutes
#   deploy/kind.sh delete    removes the cluster
#
# The virtual IP is an address of the network that docker gives to kind, reached from this machine on Linux alone (elsewhere docker
# runs in a virtual machine). KIND_CLUSTER names the cluster, `sluicegate` by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cluster=${KIND_CLUSTER:-sluicegate}
image=ghcr.io/sluicegate/sluicegate:$(sed -n 's/^appVersion: //p' deploy/helm/sluicegate/Chart.yaml)
system=sluicegate-system

for program in docker kind kubectl openssl curl; do
    command -v "$program" >/dev/null || {
        echo "deploy/kind.sh: $program is missing" >&2
        exit 1
    }
done

if [ "${1:-}" = delete ]; then
    exec kind delete cluster --name "$cluster"
fi

kubectl() {
    command kubectl --context "kind-$cluster" "$@"
}

# Three nodes for directors: an owner needs a majority.
if ! kind get clusters | grep -qx "$cluster"; then
    kind create cluster --name "$cluster" --config - <<'CLUSTER'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
- role: worker
- role: worker
- role: worker
CLUSTER
fi

docker build --file deploy/Dockerfile --tag "$image" .
kind load docker-image --name "$cluster" "$image"

# The second to last /28 of kind's IPv4 network, a /16 by default, far from what docker gives to containers.
network=$(docker network inspect kind --format '{{range .IPAM.Config}}{{println .Subnet}}{{end}}' | grep -m 1 '\.')
prefix=$(cut -d. -f1-2 <<<"$network")
vip=$prefix.255.226
pool=$prefix.255.224/28

kubectl apply --server-side --force-conflicts -f deploy/manifests/sluicegate.yaml
kubectl -n $system create secret generic sluicegate-directors --from-literal=secret="$(openssl rand -hex 32)" \
    --dry-run=client -o yaml | kubectl apply -f -
kubectl -n $system patch configmap sluicegate-config --type merge \
    --patch "{\"data\": {\"config.yaml\": \"vip-pool: ['$pool']\\n\"}}"
kubectl -n $system annotate --overwrite service sluicegate-gateway "sluicegate.io/vip=$vip"
kubectl label --overwrite node -l '!node-role.kubernetes.io/control-plane' sluicegate.io/director=true
kubectl -n $system rollout restart daemonset
for daemonset in sluicegate-gateway sluicegate-director sluicegate-backend; do
    kubectl -n $system rollout status --timeout 5m "daemonset/$daemonset"
done

kubectl apply -f deploy/samples/namespace.yaml -f deploy/samples/hosts.yaml
kubectl -n samples rollout status --timeout 5m deployment/blog

node=$(kubectl get node -l sluicegate.io/director=true \
    -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
echo "an Ingress at port 8080 of the node $node:"
curl --fail --retry 30 --retry-all-errors --retry-delay 1 -sS -H 'Host: blog.example' "http://$node:8080/hostname"
echo
echo "the same at the virtual IP $vip, by director and agent into a gateway's pod:"
curl --fail --retry 30 --retry-all-errors --retry-delay 1 -sS -H 'Host: blog.example' "http://$vip/hostname"
echo
kubectl -n $system exec daemonset/sluicegate-director -- sluicegate vips
kubectl -n $system get service sluicegate-gateway
