{{/* One store gateway, or one of several that share a bucket's blocks: {root, component, name, account, gateway, shard, shards}. */}}
{{- define "parallax.gateway" }}
{{- $gateway := .gateway }}
{{- $root := .root }}
{{- $ids := dict "root" .root "component" .component "name" .name }}
{{- $rules := $gateway.relabel | default list }}
{{- if gt .shards 1 }}
{{- $rules = append $rules (dict "action" "hashmod" "source_labels" (list "__block_id") "target_label" "__shard" "modulus" .shards) }}
{{- $rules = append $rules (dict "action" "keep" "source_labels" (list "__shard") "regex" (toString .shard)) }}
{{- end }}
{{- $secret := $root.Values.cache.existingSecret }}
{{- $documents := dict }}
{{- if $rules }}{{- $_ := set $documents "relabel.yaml" (toYaml $rules) }}{{- end }}
{{- if not $secret }}
{{- with include "parallax.indexCache" $root }}{{- $_ := set $documents "index-cache.yaml" . }}{{- end }}
{{- with include "parallax.chunkCache" $root }}{{- $_ := set $documents "caching-bucket.yaml" . }}{{- end }}
{{- end }}
{{- $args := list "store" "--http-address=0.0.0.0:10902" "--grpc-address=0.0.0.0:10901" "--data-dir=/var/lib/parallax" "--objstore.config-file=/etc/parallax/objstore/objstore.yaml" }}
{{- with $gateway.minTime }}{{- $args = append $args (printf "--min-time=%s" .) }}{{- end }}
{{- with $gateway.maxTime }}{{- $args = append $args (printf "--max-time=%s" .) }}{{- end }}
{{- with $root.Values.observer.syncInterval }}{{- $args = append $args (printf "--sync-block-duration=%s" .) }}{{- end }}
{{- if $rules }}{{- $args = append $args "--selector.relabel-config-file=/etc/parallax/config/relabel.yaml" }}{{- end }}
{{- $caches := ternary "/etc/parallax/cache" "/etc/parallax/config" (ne $secret "") }}
{{- if or $secret (hasKey $documents "index-cache.yaml") }}{{- $args = append $args (printf "--index-cache.config-file=%s/index-cache.yaml" $caches) }}{{- end }}
{{- if or $secret (hasKey $documents "caching-bucket.yaml") }}{{- $args = append $args (printf "--store.caching-bucket.config-file=%s/caching-bucket.yaml" $caches) }}{{- end }}
{{- $mounts := list (dict "name" "data" "path" "/var/lib/parallax") (dict "name" "objstore" "path" "/etc/parallax/objstore" "readOnly" true) }}
{{- if $documents }}{{- $mounts = append $mounts (dict "name" "config" "path" "/etc/parallax/config" "readOnly" true) }}{{- end }}
{{- if $secret }}{{- $mounts = append $mounts (dict "name" "cache" "path" "/etc/parallax/cache" "readOnly" true) }}{{- end }}
{{- if $documents }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}
  labels:
    {{- include "parallax.labels" $ids | nindent 4 }}
data:
  {{- range $file, $text := $documents }}
  {{ $file }}: |
    {{- $text | nindent 4 }}
  {{- end }}
{{- end }}
---
{{ include "parallax.service" (merge (dict "grpc" true) $ids) }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  labels:
    {{- include "parallax.labels" $ids | nindent 4 }}
spec:
  replicas: {{ $gateway.replicas | default 1 }}
  serviceName: {{ .name }}
  podManagementPolicy: Parallel
  selector:
    matchLabels:
      {{- include "parallax.selector" $ids | nindent 6 }}
  template:
    metadata:
      {{- include "parallax.podMetadata" (merge (dict "config" (ternary (toJson $documents) "" (gt (len $documents) 0))) $ids) | nindent 6 }}
    spec:
      {{- include "parallax.podBasics" (merge (dict "serviceAccount" .account) $ids) | nindent 6 }}
      containers:
        {{- include "parallax.container" (dict "root" $root "grpc" true "args" $args "extraArgs" $gateway.extraArgs "mounts" $mounts "resources" $gateway.resources) | nindent 8 }}
      volumes:
        - name: objstore
          secret: { secretName: {{ $gateway.objstoreSecret }}, defaultMode: 0440 }
        {{- if $documents }}
        - name: config
          configMap: { name: {{ .name }} }
        {{- end }}
        {{- if $secret }}
        - name: cache
          secret: { secretName: {{ $secret }}, defaultMode: 0440 }
        {{- end }}
        {{- include "parallax.httpVolume" $root | nindent 8 }}
  {{- include "parallax.volumeClaim" ($gateway.storage | default $root.Values.observer.storage) | nindent 2 }}
{{- include "parallax.disruptionBudget" (merge (dict "replicas" ($gateway.replicas | default 1)) $ids) }}
{{- end }}
