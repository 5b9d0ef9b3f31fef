{{/*
Variables: where the pod is, caches in writable places, the user's own, NCCL's, and references to Secrets.
Kubernetes reads `$(NAME)` in values; `$$` is a plain dollar, so that the user's values arrive as they were given.
*/}}
{{- define "tuneyard.env" -}}
- {name: TUNEYARD_SCHEDULER, value: kubernetes}
{{- if .Values.run.submitted }}
- {name: TUNEYARD_SUBMITTED, value: {{ int64 .Values.run.submitted | quote }}}
{{- end }}
- {name: TUNEYARD_NODES_COUNT, value: {{ int64 .Values.nodes | quote }}}
- name: TUNEYARD_POD_INDEX
  valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
- {name: TUNEYARD_POD_GPUS, value: {{ int64 .Values.resources.gpus | quote }}}
- name: TUNEYARD_POD_IP # where ranks meet: a name may lead to the predecessor of a pod for some time
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: TUNEYARD_POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
- name: TUNEYARD_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: TUNEYARD_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
# The Job's name is part of pod 0's host name. A JobSet names its Job itself, so the pod is asked.
- name: TUNEYARD_JOB_NAME
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
- name: TUNEYARD_HEAD
  value: {{ printf "$(TUNEYARD_JOB_NAME)-0.%s.%s.svc" .Release.Name .Release.Namespace | quote }}
- {name: TUNEYARD_PORT, value: {{ int64 .Values.port | quote }}}
- {name: PYTHONSAFEPATH, value: "1"}
- {name: PYTHONUNBUFFERED, value: "1"}
{{- $caches := dict "HOME" "/cache" "XDG_CACHE_HOME" "/cache/xdg" "TRITON_CACHE_DIR" "/cache/triton" }}
{{- $_ := set $caches "USER" "trainer" }}{{/* PyTorch asks for it, and an image need not know every uid */}}
{{- /* The hub's files are large: on the claim, a pod that replaces another one finds them again. */}}
{{- $_ := set $caches "HF_HOME" (printf "%s/.hub" .Values.runs.path) }}
{{- range $name, $value := merge dict .Values.environment $caches }}
- {name: {{ quote $name }}, value: {{ include "tuneyard.text" $value | replace "$" "$$" | quote }}}
{{- end }}
{{- range $name, $value := .Values.nccl }}
- {name: {{ printf "NCCL_%s" $name | quote }}, value: {{ include "tuneyard.text" $value | replace "$" "$$" | quote }}}
{{- end }}
{{- range $name, $secret := .Values.secrets }}
- name: {{ quote $name }}
  valueFrom: {secretKeyRef: {name: {{ quote $secret.name }}, key: {{ quote $secret.key }}}}
{{- end }}
{{- end }}
