{{/* The pod template of the Job and of the JobSet alike. Any change of it makes a new Job: see tuneyard.workload. */}}
{{- define "tuneyard.pod" -}}
metadata:
  labels:
    {{- with .Values.podLabels }}
    {{- mustToYaml . | nindent 4 }}
    {{- end }}
    {{- include "tuneyard.selector" (dict "root" . "component" "trainer") | nindent 4 }}
    tuneyard.dev/run: {{ include "tuneyard.run" . | quote }}
  annotations:
    {{- range $name, $value := .Values.podAnnotations }}
    {{ quote $name }}: {{ quote $value }}
    {{- end }}
    tuneyard.dev/job-sha256: {{ sha256sum .Values.job }}
    tuneyard.dev/plan-sha256: {{ sha256sum .Values.plan }}
    {{- with .Values.networks }}
    k8s.v1.cni.cncf.io/networks: {{ quote . }}
    {{- end }}
    {{- with .Values.kueue.topology.required }}
    kueue.x-k8s.io/podset-required-topology: {{ quote . }}
    {{- end }}
    {{- with .Values.kueue.topology.preferred }}
    kueue.x-k8s.io/podset-preferred-topology: {{ quote . }}
    {{- end }}
spec:
  restartPolicy: Never # the wrapper restarts the agent within the pod; a pod that has ended is replaced
  serviceAccountName: {{ include "tuneyard.serviceAccount" . | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false # a Service called `master` would set MASTER_PORT
  subdomain: {{ .Release.Name | quote }} # with the headless Service: pods find each other by name
  # SIGTERM tells the wrapper to have the run saved. No preStop hook: it would ask the agent behind the wrapper's back.
  terminationGracePeriodSeconds: {{ add (int64 .Values.graceSeconds) (int64 .Values.terminationMarginSeconds) }}
  securityContext:
    {{- include "tuneyard.podSecurity" . | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ quote . }}
    {{- end }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- include "tuneyard.placement" . | trim | nindent 2 }}
  initContainers:
    {{- include "tuneyard.initContainers" (dict "root" . "resources" (include "tuneyard.resources" .)) | nindent 4 }}
  containers:
    - name: trainer
      command: [python, -m, cluster.kubernetes.pod, {{ include "tuneyard.runDir" . | quote }}]
      {{- include "tuneyard.container" (dict "root" .) | nindent 6 }}
  volumes:
    {{- include "tuneyard.volumes" . | nindent 4 }}
{{- end }}

{{/* What runs before: the user's own, and what makes the run directory. Give it (dict "root" $ "resources" TEXT). */}}
{{- define "tuneyard.initContainers" -}}
{{- $given := . -}}
{{- with .root -}}
{{- range .Values.init }}
- name: {{ quote .name }}
  command:
    {{- range .command }}
    - {{ quote . }}
    {{- end }}
  {{- include "tuneyard.container" (merge (dict "image" .image) $given) | nindent 2 }}
{{- end }}
# Makes the run directory from the job file, once. With the trainer's resources, as it may have to plan on them.
- name: place
  command:
    - python
    - -m
    - launcher.cli
    - place
    - {{ include "tuneyard.runDir" . | quote }}
    - --job
    - /etc/tuneyard/job.yaml
    {{- if .Values.plan }}
    - --plan
    - /etc/tuneyard/plan.json
    {{- end }}
  {{- include "tuneyard.container" $given | nindent 2 }}
{{- end }}
{{- end }}

{{/* What containers share. Give it (dict "root" $), and another "image" or "resources" where they are not the trainer's. */}}
{{- define "tuneyard.container" -}}
image: {{ .image | default .root.Values.image | quote }}
{{- with .root.Values.imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  {{- include "tuneyard.containerSecurity" (ternary (list "IPC_LOCK") list .root.Values.rdma.ipcLock) | nindent 2 }}
resources:
  {{- $resources := .resources | default (include "tuneyard.resources" .root) }}
  requests:
    {{- $resources | nindent 4 }}
  limits:
    {{- $resources | nindent 4 }}
env:
  {{- include "tuneyard.env" .root | nindent 2 }}
volumeMounts:
  {{- include "tuneyard.mounts" .root | nindent 2 }}
{{- end }}

{{- define "tuneyard.resources" -}}
cpu: {{ include "tuneyard.text" .Values.resources.cpu | quote }}
memory: {{ include "tuneyard.text" .Values.resources.memory | quote }}
{{- with .Values.resources.ephemeralStorage }}
ephemeral-storage: {{ quote . }}
{{- end }}
{{- if .Values.resources.gpus }}
{{ .Values.resources.gpuResource | quote }}: {{ int64 .Values.resources.gpus | quote }}
{{- end }}
{{- with .Values.rdma.resource }}
{{ quote . }}: {{ int64 $.Values.rdma.count | quote }}
{{- end }}
{{- range $name, $amount := .Values.resources.extra }}
{{ quote $name }}: {{ include "tuneyard.text" $amount | quote }}
{{- end }}
{{- end }}
