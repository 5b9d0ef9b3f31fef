{{/* The pod that tokenises: on CPUs, with the run's image, user, claims, variables and Secrets. */}}
{{- define "tuneyard.preparePod" -}}
{{- $resources := include "tuneyard.prepareResources" . -}}
metadata:
  labels:
    {{- with .Values.podLabels }}
    {{- mustToYaml . | nindent 4 }}
    {{- end }}
    {{- include "tuneyard.selector" (dict "root" . "component" "prepare") | nindent 4 }}
    tuneyard.dev/run: {{ include "tuneyard.run" . | quote }}
  annotations:
    {{- range $name, $value := .Values.podAnnotations }}
    {{ quote $name }}: {{ quote $value }}
    {{- end }}
    tuneyard.dev/job-sha256: {{ sha256sum .Values.job }}
    tuneyard.dev/plan-sha256: {{ sha256sum .Values.plan }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "tuneyard.prepareAccount" . | quote }}
  automountServiceAccountToken: false # its token is mounted where nothing of the user's runs
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add (int64 .Values.graceSeconds) (int64 .Values.terminationMarginSeconds) }}
  securityContext:
    {{- include "tuneyard.podSecurity" . | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ quote . }}
    {{- end }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ quote . }}
  {{- end }}
  {{- with .Values.prepare.priorityClass | default .Values.priorityClass }}
  priorityClassName: {{ quote . }}
  {{- end }}
  {{- with .Values.prepare.nodeSelector }}
  nodeSelector:
    {{- mustToYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.prepare.tolerations }}
  tolerations:
    {{- mustToYaml . | nindent 4 }}
  {{- end }}
  # One after the other: the run directory, its data, and then the word to the API that the run may begin.
  initContainers:
    {{- include "tuneyard.initContainers" (dict "root" . "resources" $resources) | nindent 4 }}
    - name: prepare
      command:
        - python
        - -m
        - cluster.kubernetes.pod.prepare
        - {{ include "tuneyard.runDir" . | quote }}
        - {{ int64 .Values.prepare.cpus | quote }}
      terminationMessagePolicy: FallbackToLogsOnError
      {{- include "tuneyard.container" (dict "root" . "resources" $resources) | nindent 6 }}
  containers:
    - name: unsuspend
      image: {{ .Values.image | quote }}
      {{- with .Values.imagePullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      command:
        - python
        - -m
        - cluster.kubernetes.pod.prepare.unsuspend
        - {{ .Values.workload.kind | quote }}
        - {{ .Release.Namespace | quote }}
        - {{ include "tuneyard.workload" . | quote }}
        {{- with .Values.kueue.queue }}
        - {{ quote . }}
        {{- end }}
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        - {name: HOME, value: /tmp}
        - {name: PYTHONSAFEPATH, value: "1"}
        - {name: PYTHONUNBUFFERED, value: "1"}
      securityContext:
        {{- include "tuneyard.containerSecurity" list | nindent 8 }}
      resources:
        {{- include "tuneyard.smallResources" (dict "cpu" "100m" "memory" "128Mi") | nindent 8 }}
      volumeMounts:
        - {name: api, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
        - {name: tmp, mountPath: /tmp}
  volumes:
    {{- include "tuneyard.volumes" . | nindent 4 }}
    - name: api
      projected:
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3600}
          - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}

{{- define "tuneyard.prepareResources" -}}
cpu: {{ int64 .Values.prepare.cpus | quote }}
memory: {{ include "tuneyard.text" .Values.prepare.memory | quote }}
{{- end }}

{{- define "tuneyard.prepareAccount" -}}
{{ .Values.prepare.serviceAccount | default (include "tuneyard.serviceAccount" .) }}
{{- end }}

{{/* As with the run's own Job, whatever Kubernetes forbids to change is part of the name; the Job that it opens is, too. */}}
{{- define "tuneyard.prepareJob" -}}
{{- $fixed := list (include "tuneyard.preparePod" . | fromYaml) .Values.kueue .Values.prepare -}}
{{ .Release.Name }}-prepare-{{ toJson $fixed | sha256sum | trunc 5 }}
{{- end }}
