#!/usr/bin/env bash
# Renders deploy/manifests/sluicegate.yaml from the chart with its default values. Needs helm 3 or 4 (HELM, or on the PATH).
#
#   deploy/render.sh            writes the file
#   deploy/render.sh --check    says whether it is what the chart renders
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

helm=${HELM:-helm}
command -v "$helm" >/dev/null || {
    echo "deploy/render.sh: there is no $helm: install helm 3 or 4, or name it with HELM=" >&2
    exit 2
}

render() {
    printf '# Sluicegate on a cluster: kubectl apply -f sluicegate.yaml; see docs/install.md.\n'
    printf '# The rendered default of deploy/helm/sluicegate, by deploy/render.sh: change it there.\n'
    "$helm" template sluicegate helm/sluicegate --namespace sluicegate-system --set namespace.create=true
}

case ${1:-} in
--check) diff -u manifests/sluicegate.yaml <(render) ;;
'')
    rendered=$(render)
    printf '%s\n' "$rendered" >manifests/sluicegate.yaml
    ;;
*)
    echo 'usage: deploy/render.sh [--check]' >&2
    exit 2
    ;;
esac
