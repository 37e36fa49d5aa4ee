{{- define "sluicegate.prepare" -}}
# Mounts the BPF file system where the node has none, and sets what /proc/sys of other containers does not take.
- name: prepare
  image: {{ include "sluicegate.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: [prepare, --role={{ .role }}]
  securityContext: {privileged: true, runAsUser: 0, readOnlyRootFilesystem: true}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
  - {name: bpf, mountPath: /sys/fs/bpf, mountPropagation: Bidirectional}
{{- end }}
