/* One job of libcrypto's, again and again: evp KIND NAME BYTES MILLISECONDS prints nanoseconds a job;
   evp KIND NAME BYTES turns reads how many jobs to do, a line each, and answers with nanoseconds.
   What is configured (OPENSSL_CONF) decides who does it; of kind `afalg`, OpenSSL's engine of this name. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/ec.h>
#include <openssl/engine.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/provider.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *kind;
static unsigned char *data, *out, key[64], iv[16], tag[16], aad[13];
static size_t bytes;
static EVP_MD_CTX *digests;
static EVP_CIPHER_CTX *ciphers;
static EVP_MD *md;
static EVP_CIPHER *cipher;
static EVP_PKEY *pair;
static ENGINE *engine;
static EVP_MAC *mac;
static EVP_MAC_CTX *macs;
static EVP_KDF *kdf;
static EVP_KDF_CTX *kdfs;
static OSSL_PARAM given[6];

static void must(int good, const char *what) {
    if (good > 0) return;
    fprintf(stderr, "evp: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void digest(void) {
    unsigned int size = 0;
    must(EVP_DigestInit_ex(digests, NULL, NULL), "EVP_DigestInit_ex");
    must(EVP_DigestUpdate(digests, data, bytes), "EVP_DigestUpdate");
    must(EVP_DigestFinal_ex(digests, out, &size), "EVP_DigestFinal_ex");
}

static void encrypt(void) {
    int size = 0;
    must(EVP_EncryptInit_ex(ciphers, NULL, NULL, NULL, iv), "EVP_EncryptInit_ex");
    must(EVP_EncryptUpdate(ciphers, out, &size, data, (int)bytes), "EVP_EncryptUpdate");
}

static void seal(void) {
    int size = 0;
    must(EVP_EncryptInit_ex(ciphers, NULL, NULL, NULL, iv), "EVP_EncryptInit_ex");
    must(EVP_EncryptUpdate(ciphers, NULL, &size, aad, sizeof aad), "additional data");
    must(EVP_EncryptUpdate(ciphers, out, &size, data, (int)bytes), "EVP_EncryptUpdate");
    must(EVP_EncryptFinal_ex(ciphers, out + size, &size), "EVP_EncryptFinal_ex");
    must(EVP_CIPHER_CTX_ctrl(ciphers, EVP_CTRL_AEAD_GET_TAG, sizeof tag, tag), "the tag");
}

static void authenticate(void) {
    size_t size = 0;
    must(EVP_MAC_init(macs, NULL, 0, NULL), "EVP_MAC_init");
    must(EVP_MAC_update(macs, data, bytes), "EVP_MAC_update");
    must(EVP_MAC_final(macs, out, &size, 64), "EVP_MAC_final");
}

static void derive(void) {
    EVP_KDF_CTX_reset(kdfs);
    must(EVP_KDF_derive(kdfs, out, 32, given), "EVP_KDF_derive");
}

static void sign(void) {
    size_t size = 1024;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    must(EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, pair), "EVP_DigestSignInit");
    must(EVP_DigestSign(context, out, &size, data, bytes), "EVP_DigestSign");
    EVP_MD_CTX_free(context);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e9 + at.tv_nsec;
}

static double timed(void (*job)(void), unsigned long times) {
    double begun = now();
    for (unsigned long i = 0; i < times; i++) job();
    return now() - begun;
}

int main(int count, char **words) {
    if (count != 5) return 2;
    kind = words[1];
    bytes = strtoul(words[3], NULL, 10);
    double until = atof(words[4]) * 1e6;
    /* The kernel counts pages: they shall not hang on what else is on the heap. */
    if (posix_memalign((void **)&data, 4096, bytes) || posix_memalign((void **)&out, 4096, bytes + 1024)) return 2;
    memset(data, 0, bytes);
    memset(out, 0, bytes + 1024);
    void (*job)(void);
    if (!strcmp(kind, "digest")) {
        md = EVP_MD_fetch(NULL, words[2], NULL);
        digests = EVP_MD_CTX_new();
        must(EVP_DigestInit_ex(digests, md, NULL), words[2]);
        job = digest;
    } else if (!strcmp(kind, "encrypt") || !strcmp(kind, "seal")) {
        cipher = EVP_CIPHER_fetch(NULL, words[2], NULL);
        ciphers = EVP_CIPHER_CTX_new();
        must(EVP_EncryptInit_ex(ciphers, cipher, NULL, key, iv), words[2]);
        EVP_CIPHER_CTX_set_padding(ciphers, 0);
        job = *kind == 'e' ? encrypt : seal;
    } else if (!strcmp(kind, "afalg")) {
        OPENSSL_init_crypto(OPENSSL_INIT_ENGINE_DYNAMIC, NULL);
        must((engine = ENGINE_by_id("afalg")) != NULL && ENGINE_init(engine), "the engine afalg");
        ciphers = EVP_CIPHER_CTX_new();
        const EVP_CIPHER *known = EVP_get_cipherbyname(words[2]);
        must(known && ENGINE_get_cipher(engine, EVP_CIPHER_get_nid(known)) != NULL, words[2]);
        must(EVP_EncryptInit_ex(ciphers, known, engine, key, iv), words[2]);
        EVP_CIPHER_CTX_set_padding(ciphers, 0);
        job = encrypt;
    } else if (!strcmp(kind, "mac")) {
        OSSL_PARAM of[] = {OSSL_PARAM_utf8_string("digest", words[2], 0), OSSL_PARAM_END};
        mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        macs = EVP_MAC_CTX_new(mac);
        must(EVP_MAC_init(macs, key, 32, of), words[2]);
        job = authenticate;
    } else if (!strcmp(kind, "derive")) {
        /* BYTES is the cost: PBKDF2's iterations, scrypt's n. */
        static uint64_t cost, r = 8, p = 1;
        cost = bytes;
        given[0] = OSSL_PARAM_construct_octet_string("pass", key, 16);
        given[1] = OSSL_PARAM_construct_octet_string("salt", iv, 16);
        given[2] = OSSL_PARAM_construct_end();
        if (!strcmp(words[2], "PBKDF2")) {
            given[2] = OSSL_PARAM_construct_utf8_string("digest", "SHA2-256", 0);
            given[3] = OSSL_PARAM_construct_uint64("iter", &cost);
            given[4] = OSSL_PARAM_construct_end();
        } else {
            given[2] = OSSL_PARAM_construct_uint64("n", &cost);
            given[3] = OSSL_PARAM_construct_uint64("r", &r);
            given[4] = OSSL_PARAM_construct_uint64("p", &p);
            given[5] = OSSL_PARAM_construct_end();
        }
        must((kdf = EVP_KDF_fetch(NULL, words[2], NULL)) != NULL, words[2]);
        kdfs = EVP_KDF_CTX_new(kdf);
        job = derive;
    } else {
        must((pair = EVP_EC_gen(words[2])) != NULL, words[2]);
        job = sign;
    }
    const OSSL_PROVIDER *by = md ? EVP_MD_get0_provider(md)
        : cipher ? EVP_CIPHER_get0_provider(cipher)
        : mac ? EVP_MAC_get0_provider(mac)
        : kdf ? EVP_KDF_get0_provider(kdf)
        : pair ? EVP_PKEY_get0_provider(pair) : NULL;
    const char *who = by ? OSSL_PROVIDER_get0_name(by) : ENGINE_get_id(engine);
    job();
    if (!strcmp(words[4], "turns")) {
        printf("%s\n", who);
        fflush(stdout);
        for (unsigned long times; scanf("%lu", &times) == 1; fflush(stdout))
            printf("%.0f\n", timed(job, times));
        return 0;
    }
    unsigned long jobs = 0, batch = 1;
    double taken = 0;
    while (taken < until) {
        taken += timed(job, batch);
        jobs += batch;
        if (taken < until / 16) batch *= 2;
    }
    printf("%s %.1f\n", who, taken / jobs);
    return 0;
}
