#!/bin/sh
# Judges an X.509-SVID with OpenSSL alone: path, purposes and the profile that SPIRE's certificates have.
#
#   openssl_profile.sh SVID.pem BUNDLE.pem SPIFFE-ID [DNS-NAME...]
#
# SVID.pem holds the leaf first, then intermediates. Exit code 1 if anything differs; each difference is a line on stderr.
set -u

if [ $# -lt 3 ]; then
    echo "usage: $0 SVID.pem BUNDLE.pem SPIFFE-ID [DNS-NAME...]" >&2
    exit 64
fi
svid=$1
bundle=$2
id=$3
shift 3

failures=0
fail() {
    echo "openssl_profile: $1" >&2
    failures=$((failures + 1))
}

for file in "$svid" "$bundle"; do
    [ -r "$file" ] || { echo "openssl_profile: cannot read $file" >&2; exit 1; }
done

for purpose in sslserver sslclient; do
    output=$(openssl verify -x509_strict -purpose "$purpose" -CAfile "$bundle" -untrusted "$svid" "$svid" 2>&1) ||
        fail "does not verify as $purpose: $output"
done

text=$(openssl x509 -in "$svid" -noout -text) || { echo "openssl_profile: $svid is no certificate" >&2; exit 1; }

# The value of an extension: the line below its heading.
extension() {
    printf '%s\n' "$text" | grep -A1 -F "X509v3 $1:" | sed -n '2s/^ *//p'
}
is_critical() {
    printf '%s\n' "$text" | grep -qF "X509v3 $1: critical"
}
equals() {
    [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"
}

equals "key usage" "$(extension 'Key Usage')" "Digital Signature, Key Encipherment, Key Agreement"
is_critical "Key Usage" || fail "key usage is not critical"
equals "extended key usage" "$(extension 'Extended Key Usage')" \
    "TLS Web Server Authentication, TLS Web Client Authentication"
equals "basic constraints" "$(extension 'Basic Constraints')" "CA:FALSE"
is_critical "Basic Constraints" || fail "basic constraints are not critical"
[ -n "$(extension 'Subject Key Identifier')" ] || fail "there is no subject key identifier"
[ -n "$(extension 'Authority Key Identifier')" ] || fail "there is no authority key identifier"

names=
for name in "$@"; do
    names="${names}DNS:$name, "
done
equals "subject alternative name" "$(extension 'Subject Alternative Name')" "${names}URI:$id"

subject=$(openssl x509 -in "$svid" -noout -subject -nameopt RFC2253)
if [ $# -gt 0 ]; then
    equals "subject" "$subject" "subject=CN=$1,O=SPIRE,C=US"
else
    equals "subject" "$subject" "subject=O=SPIRE,C=US"
fi

serial=$(openssl x509 -in "$svid" -noout -serial)
case ${#serial} in
    2[0-9] | 3[0-9]) ;; # "serial=" and up to 32 digits; fewer than 13 would hardly be random
    *) fail "$serial does not look like a random number of up to 128 bits" ;;
esac

# Clock skew: the certificate starts ten seconds before it was made, so it has been valid for at least that.
openssl x509 -in "$svid" -noout -checkend 0 >/dev/null || fail "has expired"

# Every authority of the bundle: a CA that may sign, with the trust domain as its only URI.
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
awk -v folder="$folder" '/-----BEGIN CERTIFICATE-----/ { n++ } n { print > (folder "/" n ".pem") }' "$bundle"
trust_domain=$(printf '%s\n' "$id" | cut -d/ -f1-3)
for authority in "$folder"/*.pem; do
    text=$(openssl x509 -in "$authority" -noout -text) || { fail "the bundle holds something that is no certificate"; continue; }
    case $(extension 'Basic Constraints') in
        CA:TRUE*) ;;
        *) fail "an authority is not a CA" ;;
    esac
    is_critical "Basic Constraints" || fail "an authority's basic constraints are not critical"
    case $(extension 'Key Usage') in
        *"Certificate Sign"*) ;;
        *) fail "an authority may not sign certificates" ;;
    esac
    is_critical "Key Usage" || fail "an authority's key usage is not critical"
    [ -n "$(extension 'Subject Key Identifier')" ] || fail "an authority has no subject key identifier"
    equals "an authority's subject alternative name" "$(extension 'Subject Alternative Name')" "URI:$trust_domain"
done

[ "$failures" -eq 0 ]
