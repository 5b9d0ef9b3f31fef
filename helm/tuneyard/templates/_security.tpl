{{/* The restricted profile of Pod Security, for every pod of the chart. */}}
{{- define "tuneyard.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.securityContext.uid }}
runAsGroup: {{ int64 .Values.securityContext.gid }}
fsGroup: {{ int64 .Values.securityContext.fsGroup }}
fsGroupChangePolicy: OnRootMismatch # a claim with many files is not walked through at every start
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* And for every container; the argument is the list of capabilities to add, which the profile wants empty. */}}
{{- define "tuneyard.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with . }}
  add: {{ toJson . }}
  {{- end }}
{{- end }}
