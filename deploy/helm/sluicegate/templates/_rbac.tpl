{{- define "sluicegate.bindingOfWatched" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ if .root.Values.watchNamespace }}RoleBinding{{ else }}ClusterRoleBinding{{ end }}
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  {{- with .root.Values.watchNamespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "sluicegate.labels" . | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .root.Release.Name }}-{{ .component }}}
subjects:
- {kind: ServiceAccount, name: {{ .root.Release.Name }}-{{ .component }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}

{{- define "sluicegate.bindingOfCluster" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}-cluster
  labels:
    {{- include "sluicegate.labels" . | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .root.Release.Name }}-{{ .component }}-cluster}
subjects:
- {kind: ServiceAccount, name: {{ .root.Release.Name }}-{{ .component }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}

{{- define "sluicegate.roleOfOwn" -}}
# In the namespace of the installation: ConfigMaps by name, and the Lease of who writes.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "sluicegate.labels" . | nindent 4 }}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [vips, tcp-services], verbs: [list, watch]}
{{- if and .root.Values.watchNamespace (ne .component "gateway") }}
# Where directors and agents are, outside of the namespace that is served.
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
{{- end }}
{{- if ne .component "backend" }}
{{- if eq .component "director" }}
# Its own Lease, those of the other directors, and the record of who they are.
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, list, update, watch]}
{{- else }}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [{{ .root.Release.Name }}-{{ .component }}], verbs: [get, update]}
{{- end }}
{{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "sluicegate.labels" . | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .root.Release.Name }}-{{ .component }}}
subjects:
- {kind: ServiceAccount, name: {{ .root.Release.Name }}-{{ .component }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}
