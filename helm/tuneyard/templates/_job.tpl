{{/* The spec of the Job, as it stands or within a JobSet. Give it (dict "root" $ "backoffLimit" N). */}}
{{- define "tuneyard.jobSpec" -}}
completionMode: Indexed
completions: {{ int64 .root.Values.nodes }}
parallelism: {{ int64 .root.Values.nodes }}
backoffLimit: {{ int64 .backoffLimit }}
# Never reached. With it, Kubernetes counts each index by itself when it waits longer and longer before it replaces a
# pod; otherwise every eviction of any pod doubles the wait of all. Older than 1.29, it is not heeded.
backoffLimitPerIndex: 2147483647
{{- if .root.Values.walltimeSeconds }}
activeDeadlineSeconds: {{ int64 .root.Values.walltimeSeconds }}
{{- end }}
podFailurePolicy:
  rules: # the first one that fits
    {{- range include "tuneyard.exits" .root | fromYamlArray }}
    - action: {{ .job }}
      {{- if .codes }}
      onExitCodes: {containerName: {{ .container }}, operator: In, values: {{ toJson .codes }}}
      onPodConditions: [] # 1.28 to 1.30 call it required in their schema
      {{- else }}
      onPodConditions: [{type: {{ .condition }}, status: "True"}]
      {{- end }}
    {{- end }}
template:
  {{- include "tuneyard.pod" .root | nindent 2 }}
{{- end }}

{{/* Labels that Kueue reads from the Job or JobSet. Its own webhook suspends what has to wait. */}}
{{- define "tuneyard.kueueLabels" -}}
{{- with .Values.kueue.queue }}
kueue.x-k8s.io/queue-name: {{ quote . }}
{{- end }}
{{- with .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ quote . }}
{{- end }}
{{- end }}
