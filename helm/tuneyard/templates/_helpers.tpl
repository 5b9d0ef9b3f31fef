{{/* Labels that select: the same over all revisions of a release. Give it (dict "root" $ "component" "trainer"). */}}
{{- define "tuneyard.selector" -}}
app.kubernetes.io/name: tuneyard
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. The version is not on pods: a new chart alone must not restart a run. */}}
{{- define "tuneyard.labels" -}}
app.kubernetes.io/name: tuneyard
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
tuneyard.dev/run: {{ include "tuneyard.run" . | quote }}
{{- end }}

{{- define "tuneyard.run" -}}
{{ .Values.run.name | default .Release.Name }}
{{- end }}

{{- define "tuneyard.runDir" -}}
{{ .Values.runs.path }}/{{ include "tuneyard.run" . }}
{{- end }}

{{- define "tuneyard.runsClaim" -}}
{{ .Values.runs.claim | default (printf "%s-runs" .Release.Name) }}
{{- end }}

{{- define "tuneyard.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary .Release.Name "default" .Values.serviceAccount.create) }}
{{- end }}

{{/*
The name of the Job or JobSet: the release's, and a hash of everything that Kubernetes forbids to change in one. So an
upgrade or a rollback that changes such a thing makes a new one, and Helm deletes the old one; any other leaves it running.
*/}}
{{- define "tuneyard.workload" -}}
{{- $fixed := list (include "tuneyard.pod" . | fromYaml) .Values.nodes .Values.workload.kind .Values.kueue -}}
{{- if eq .Values.workload.kind "jobset" -}}
{{- $fixed = append $fixed (list .Values.backoffLimit .Values.walltimeSeconds) -}}
{{- end -}}
{{ .Release.Name }}-{{ toJson $fixed | sha256sum | trunc 5 }}
{{- end }}

{{/* The name of the Job that makes the pods: a JobSet gives its own one. */}}
{{- define "tuneyard.jobName" -}}
{{ include "tuneyard.workload" . }}{{ eq .Values.workload.kind "jobset" | ternary "-ranks-0" "" }}
{{- end }}

{{/*
What the exit codes of the pod wrapper mean to Kubernetes: the only place where they stand.
2 fatal, 3 the restart policy gave up, 4 stopped by the user: the run is over. 75: this pod must leave, another one is to
come, and nothing is counted; the same if Kubernetes itself takes the pod away. Any other death counts towards backoffLimit.
*/}}
{{- define "tuneyard.exits" -}}
- {container: trainer, codes: [2, 3, 4], job: FailJob, jobset: FailJobSet}
- {container: place, codes: [2], job: FailJob, jobset: FailJobSet}
- {container: trainer, codes: [75], job: Ignore}
- {condition: DisruptionTarget, job: Ignore}
{{- end }}

{{/* A number or text as text, without what Go makes of large numbers (1e+06). */}}
{{- define "tuneyard.text" -}}
{{- if or (kindIs "string" .) (kindIs "bool" .) -}}
{{ . }}
{{- else if eq (float64 .) (floor .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{- define "tuneyard.smallResources" -}}
requests: &amount
  cpu: {{ include "tuneyard.text" .cpu | quote }}
  memory: {{ include "tuneyard.text" .memory | quote }}
limits: *amount
{{- end }}
