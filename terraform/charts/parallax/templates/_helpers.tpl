{{- define "parallax.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels that never change: {root, component, name}. */}}
{{- define "parallax.selector" -}}
app.kubernetes.io/part-of: parallax
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/name: {{ .name }}
{{- end }}

{{- define "parallax.labels" -}}
{{ include "parallax.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A name that Kubernetes takes, from a cluster's name. */}}
{{- define "parallax.safe" -}}
{{ . | replace "." "-" | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "parallax.resources" -}}
{{- $presets := dict
  "small" (dict "requests" (dict "cpu" "100m" "memory" "256Mi") "limits" (dict "memory" "1Gi"))
  "medium" (dict "requests" (dict "cpu" "500m" "memory" "1Gi") "limits" (dict "memory" "4Gi"))
  "large" (dict "requests" (dict "cpu" "2" "memory" "4Gi") "limits" (dict "memory" "16Gi")) -}}
{{- toYaml (.own | default (get $presets .root.Values.resourcesPreset)) }}
{{- end }}

{{- define "parallax.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Pod fields of every workload: {root, component, name, serviceAccount}. */}}
{{- define "parallax.podBasics" -}}
{{- with .serviceAccount }}
serviceAccountName: {{ . }}
{{- end }}
{{- /* Nobody here asks Kubernetes; clouds' identities come in volumes of their own. */}}
automountServiceAccountToken: false
{{- /* They would be environment variables that begin with PARALLAX_, as settings do. */}}
enableServiceLinks: false
{{- /* Until load balancers know (10 s), calls have ended (2 min) and what is open is closed. */}}
terminationGracePeriodSeconds: 150
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "parallax.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Labels of pods, and what the values add: {root, component, name}, config (what a rollout follows). */}}
{{- define "parallax.podMetadata" -}}
labels:
  {{- include "parallax.selector" . | nindent 2 }}
{{- if or .config .root.Values.podAnnotations }}
annotations:
  {{- with .config }}
  # Read at start: a change is a rollout.
  parallax/config: {{ . | sha256sum }}
  {{- end }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Endpoints are taken away when a pod is told to stop, but proxies and load balancers learn of it later: until then it goes on. */}}
{{- define "parallax.preStop" -}}
{{- if semverCompare ">=1.30.0-0" .root.Capabilities.KubeVersion.Version }}
lifecycle:
  preStop:
    sleep: { seconds: 10 }
{{- end }}
{{- end }}

{{/* Probes: {root, grpc, grpcTls}. Kubelet has no password and no certificate: where the HTTP server asks for one, plain gRPC says whether it is ready, else that it listens. */}}
{{- define "parallax.probes" -}}
{{- $http := .root.Values.httpServer }}
{{- if and $http.existingSecret $http.credentials }}
livenessProbe:
  tcpSocket: { port: http }
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 8
readinessProbe:
  {{- if and .grpc (not .grpcTls) }}
  grpc: { port: 10901 }
  {{- else }}
  tcpSocket: { port: http }
  {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 6
{{- else }}
{{- $scheme := ternary "HTTPS" "HTTP" (and (ne $http.existingSecret "") $http.tls) }}
livenessProbe:
  httpGet: { path: /-/healthy, port: http, scheme: {{ $scheme }} }
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 8
readinessProbe:
  httpGet: { path: /-/ready, port: http, scheme: {{ $scheme }} }
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
{{- end }}

{{/* The volume of httpServer.existingSecret, which parallax.container mounts. */}}
{{- define "parallax.httpVolume" -}}
{{- with .Values.httpServer.existingSecret }}
- name: http
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- end }}

{{/* The container of one component: {root, args, extraArgs, env, grpc, grpcTls, configured (by a file, so that it takes no flag of HTTP), mounts, resources, image}. Logs are added here. */}}
{{- define "parallax.container" -}}
{{- $secret := .root.Values.httpServer.existingSecret }}
{{- $mounts := .mounts | default list }}
{{- if $secret }}{{- $mounts = append $mounts (dict "name" "http" "path" "/etc/parallax/http" "readOnly" true) }}{{- end }}
- name: parallax
  image: {{ .image | default (include "parallax.image" .root) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    {{- range .args }}
    - {{ . | quote }}
    {{- end }}
    {{- if and $secret (not .configured) }}
    - --http.config=/etc/parallax/http/web.yaml
    {{- end }}
    - --log.level={{ .root.Values.logLevel }}
    - --log.format=json
    {{- range .extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- with .root.Values.extraEnv }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - { name: http, containerPort: 10902 }
    {{- if .grpc }}
    - { name: grpc, containerPort: 10901 }
    {{- end }}
  {{- include "parallax.probes" . | nindent 2 }}
  {{- if .grpc }}
  {{- include "parallax.preStop" . | nindent 2 }}
  {{- end }}
  resources:
    {{- include "parallax.resources" (dict "root" .root "own" .resources) | nindent 4 }}
  securityContext:
    {{- include "parallax.containerSecurity" . | nindent 4 }}
  {{- with $mounts }}
  volumeMounts:
    {{- range . }}
    - name: {{ .name }}
      mountPath: {{ .path }}
      {{- if .readOnly }}
      readOnly: true
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* The Service of one component: {root, component, name, grpc, grpcTls, headless}. */}}
{{- define "parallax.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    {{- include "parallax.labels" . | nindent 4 }}
    parallax/job: {{ .root.Values.monitoring.serviceMonitor.jobPrefix }}{{ .component }}
spec:
  {{- if .headless }}
  clusterIP: None
  {{- end }}
  selector:
    {{- include "parallax.selector" . | nindent 4 }}
  ports:
    - { name: http, port: 10902, targetPort: http }
    {{- if .grpc }}
    - { name: grpc, port: 10901, targetPort: grpc{{ if not .grpcTls }}, appProtocol: kubernetes.io/h2c{{ end }} }
    {{- end }}
{{- end }}

{{- define "parallax.volumeClaim" -}}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .className }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ .size }}
{{- end }}

{{- define "parallax.disruptionBudget" -}}
{{- if and .root.Values.podDisruptionBudget.enabled (gt (int .replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "parallax.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # A pod that never gets ready must not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "parallax.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "parallax.serviceAccount" -}}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  labels:
    {{- include "parallax.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* Secret of a cluster's querier: its own, or the observer's. */}}
{{- define "parallax.querierSecret" -}}
{{ .querier.tlsSecret | default .root.Values.observer.tlsSecret }}
{{- end }}

{{/* File with the CA of observees, for a Secret of the hub's: {root, secret, directory}. */}}
{{- define "parallax.observeeCa" -}}
{{ if and .root.Values.observer.certManager.enabled (eq .secret .root.Values.observer.tlsSecret) }}/etc/parallax/trusted-ca/ca.crt{{ else }}{{ .directory }}/ca.crt{{ end }}
{{- end }}

{{/* The name in the certificate: the host of the first store, without what says how to look it up. */}}
{{- define "parallax.serverName" -}}
{{ .serverName | default (regexReplaceAll "^[a-z]+\\+" (first (splitList ":" (first .stores))) "") }}
{{- end }}

{{/* What a server asks of those who call, as flags, a line each: {allowedIdentities, forwardedCertificates}. */}}
{{- define "parallax.accessFlags" -}}
{{- range .allowedIdentities }}
--grpc-server-allowed-identity={{ . }}
{{- end }}
{{- with .forwardedCertificates }}
--grpc-server-forwarded-certificates={{ . }}
{{- end }}
{{- end }}

{{/* The value of the cluster label of an entry of a map: {name, entry}; "" is none. */}}
{{- define "parallax.clusterOf" -}}
{{ if kindIs "string" .entry.cluster }}{{ .entry.cluster }}{{ else }}{{ .name }}{{ end }}
{{- end }}

{{/* The memcached of this release, each pod by its name: a name of several addresses counts as one server. */}}
{{- define "parallax.memcached" -}}
type: MEMCACHED
config:
  addresses:
    {{- range $pod := until (int .Values.cache.memcached.replicas) }}
    - {{ $.Release.Name }}-memcached-{{ $pod }}.{{ $.Release.Name }}-memcached.{{ $.Release.Namespace }}.svc:11211
    {{- end }}
  timeout: 500ms
  max_item_size: 16MiB
{{- end }}

{{/* The documents of caches, or nothing. */}}
{{- define "parallax.indexCache" -}}
{{- if .Values.cache.index }}{{ toYaml .Values.cache.index }}{{ else if .Values.cache.memcached.enabled }}{{ include "parallax.memcached" . }}{{ end }}
{{- end }}
{{- define "parallax.chunkCache" -}}
{{- if .Values.cache.chunks }}{{ toYaml .Values.cache.chunks }}{{ else if .Values.cache.memcached.enabled }}{{ include "parallax.memcached" . }}{{ end }}
{{- end }}
