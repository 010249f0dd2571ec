// Keys and certificates as the tls provider makes them from the same arguments: enough of it for the pki module.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

func computeTLS(kind string, fields values) (map[string]string, error) {
	switch kind {
	case "tls_private_key":
		return privateKey(fields)
	case "tls_self_signed_cert":
		return selfSigned(fields)
	case "tls_cert_request":
		return request(fields)
	default:
		return locallySigned(fields)
	}
}

func privateKey(fields values) (map[string]string, error) {
	if fields.text("algorithm") != "ECDSA" {
		return nil, errors.New("the stand-in makes ECDSA keys only")
	}
	curve := map[string]elliptic.Curve{"P256": elliptic.P256(), "P384": elliptic.P384()}[fields.text("ecdsa_curve")]
	if curve == nil {
		return nil, fmt.Errorf("ecdsa_curve %q: the stand-in knows P256 and P384", fields.text("ecdsa_curve"))
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"private_key_pem":       armour("EC PRIVATE KEY", sec1),
		"private_key_pem_pkcs8": armour("PRIVATE KEY", pkcs8),
		"public_key_pem":        armour("PUBLIC KEY", public),
	}, nil
}

func selfSigned(fields values) (map[string]string, error) {
	key, err := signer(fields.text("private_key_pem"))
	if err != nil {
		return nil, err
	}
	template, err := certificate(fields, subject(fields), key.Public())
	if err != nil {
		return nil, err
	}
	return sign(template, template, key.Public(), key)
}

func request(fields values) (map[string]string, error) {
	key, err := signer(fields.text("private_key_pem"))
	if err != nil {
		return nil, err
	}
	uris, err := urls(texts(fields, "uris"))
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{Subject: subject(fields), DNSNames: texts(fields, "dns_names"), URIs: uris}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	return map[string]string{"cert_request_pem": armour("CERTIFICATE REQUEST", der)}, nil
}

func locallySigned(fields values) (map[string]string, error) {
	csr, err := unarmour(fields.text("cert_request_pem"))
	if err != nil {
		return nil, fmt.Errorf("cert_request_pem: %w", err)
	}
	asked, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("cert_request_pem: %w", err)
	}
	der, err := unarmour(fields.text("ca_cert_pem"))
	if err != nil {
		return nil, fmt.Errorf("ca_cert_pem: %w", err)
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("ca_cert_pem: %w", err)
	}
	key, err := signer(fields.text("ca_private_key_pem"))
	if err != nil {
		return nil, err
	}
	template, err := certificate(fields, asked.Subject, asked.PublicKey)
	if err != nil {
		return nil, err
	}
	template.DNSNames, template.URIs = asked.DNSNames, asked.URIs
	return sign(template, issuer, asked.PublicKey, key)
}

func sign(template, issuer *x509.Certificate, public any, key crypto.Signer) (map[string]string, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"cert_pem":            armour("CERTIFICATE", der),
		"validity_start_time": template.NotBefore.Format(time.RFC3339),
		"validity_end_time":   template.NotAfter.Format(time.RFC3339),
	}, nil
}

func certificate(fields values, name pkix.Name, public any) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	var hours big.Float
	if err := fields["validity_period_hours"].As(&hours); err != nil {
		return nil, err
	}
	count, _ := hours.Int64()
	now := time.Now().UTC()
	out := &x509.Certificate{
		SerialNumber: serial, Subject: name, NotBefore: now, NotAfter: now.Add(time.Duration(count) * time.Hour),
		BasicConstraintsValid: true, IsCA: truth(fields, "is_ca_certificate"),
	}
	if truth(fields, "set_subject_key_id") {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, err
		}
		digest := sha1.Sum(der)
		out.SubjectKeyId = digest[:]
	}
	for _, use := range texts(fields, "allowed_uses") {
		if usage, found := keyUsages[use]; found {
			out.KeyUsage |= usage
		} else if usage, found := extendedUsages[use]; found {
			out.ExtKeyUsage = append(out.ExtKeyUsage, usage)
		} else {
			return nil, fmt.Errorf("allowed_uses: the stand-in does not know %q", use)
		}
	}
	return out, nil
}

var keyUsages = map[string]x509.KeyUsage{
	"digital_signature": x509.KeyUsageDigitalSignature,
	"cert_signing":      x509.KeyUsageCertSign,
	"crl_signing":       x509.KeyUsageCRLSign,
}

var extendedUsages = map[string]x509.ExtKeyUsage{
	"client_auth": x509.ExtKeyUsageClientAuth,
	"server_auth": x509.ExtKeyUsageServerAuth,
}

func subject(fields values) pkix.Name {
	var blocks []tftypes.Value
	if err := fields["subject"].As(&blocks); err != nil || len(blocks) == 0 {
		return pkix.Name{}
	}
	inner := values{}
	if err := blocks[0].As((*map[string]tftypes.Value)(&inner)); err != nil {
		return pkix.Name{}
	}
	name := pkix.Name{CommonName: inner.text("common_name")}
	if organization := inner.text("organization"); organization != "" {
		name.Organization = []string{organization}
	}
	return name
}

func texts(fields values, name string) []string {
	var items []tftypes.Value
	if value, found := fields[name]; !found || value.IsNull() || value.As(&items) != nil {
		return nil
	}
	out := make([]string, 0, len(items))
	for _, item := range items {
		out = append(out, values{"item": item}.text("item"))
	}
	return out
}

func truth(fields values, name string) bool {
	var yes bool
	if value, found := fields[name]; found && value.IsKnown() && !value.IsNull() {
		_ = value.As(&yes)
	}
	return yes
}

func urls(items []string) ([]*url.URL, error) {
	out := make([]*url.URL, 0, len(items))
	for _, item := range items {
		parsed, err := url.Parse(item)
		if err != nil {
			return nil, err
		}
		out = append(out, parsed)
	}
	return out, nil
}

func signer(text string) (crypto.Signer, error) {
	der, err := unarmour(text)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	key, usable := parsed.(crypto.Signer)
	if !usable {
		return nil, errors.New("private key: it cannot sign")
	}
	return key, nil
}

func armour(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func unarmour(text string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return block.Bytes, nil
}
