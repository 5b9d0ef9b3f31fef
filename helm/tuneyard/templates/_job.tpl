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
  {{- include "tuneyard.podFailureRules" (dict "root" .root "container" "trainer") | nindent 2 }}
template:
  {{- include "tuneyard.pod" .root | nindent 2 }}
{{- end }}

{{/* The table of exit codes as the Job reads it. Give it (dict "root" $ "container" WHOSE): trainer, or prepare. */}}
{{- define "tuneyard.podFailureRules" -}}
rules: # the first one that fits
  {{- range include "tuneyard.exits" .root | fromYamlArray }}
  - action: {{ .job }}
    {{- if .codes }}
    onExitCodes: {containerName: {{ .container | replace "trainer" $.container }}, operator: In, values: {{ toJson .codes }}}
    onPodConditions: [] # 1.28 to 1.30 call it required in their schema
    {{- else }}
    onPodConditions: [{type: {{ .condition }}, status: "True"}]
    {{- end }}
  {{- end }}
{{- end }}

{{/* Labels that Kueue reads from the Job or JobSet. Its own webhook suspends what has to wait. */}}
{{- define "tuneyard.kueueLabels" -}}
{{- if not (include "tuneyard.prepares" .) }}{{/* else it is labelled when its data are there: no quota is held before */}}
{{- with .Values.kueue.queue }}
kueue.x-k8s.io/queue-name: {{ quote . }}
{{- end }}
{{- end }}
{{- with .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ quote . }}
{{- end }}
{{- end }}

{{/*
"true" where a Job of its own tokenises first, and the run's own is suspended until it has. An upgrade has neither: it must
not suspend a run that trains, and what is not tokenised by then the run's own pods do.
*/}}
{{- define "tuneyard.prepares" -}}
{{- if and .Values.prepare.enabled .Release.IsInstall -}}
true
{{- end -}}
{{- end }}
