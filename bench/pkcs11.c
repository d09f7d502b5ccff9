/* Measures a PKCS#11 module from C: nanoseconds of one operation, one line for each that was asked for.
 *
 * pkcs11 MODULE SLOT PIN MILLISECONDS OPERATION...
 *
 * SLOT is a place in the list of slots; PIN is - where there is no login. Operations: start (C_Initialize to a
 * first digest), gcm (4 KiB, a fresh IV each), cbc (4 KiB), sha256 (4 KiB), rsa (2048 bits, PKCS #1 v1.5 of
 * SHA-256), p256 (ECDSA of SHA-256). Keys are generated, sensitive, as token objects if the slot is not the
 * first. The operation bare is cbc by MODULE, which is libcrypto. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

typedef unsigned long ulong;
typedef struct { ulong mechanism; void *parameter; ulong size; } mechanism;
typedef struct { ulong type; const void *value; ulong size; } attribute;
typedef struct { unsigned char *iv; ulong iv_size, iv_bits; void *aad; ulong aad_size, tag_bits; } gcm;

/* CK_FUNCTION_LIST: a version, then the functions in their order. */
enum { INITIALIZE = 0, FINALIZE = 1, SLOTS = 4, OPEN = 12, LOGIN = 18, DESTROY = 22, ENCRYPT_INIT = 29,
       ENCRYPT = 30, DIGEST_INIT = 37, DIGEST = 38, SIGN_INIT = 42, SIGN = 43, GENERATE = 58, PAIR = 59 };
static void **list;
#define CALL(n, ...) (((ulong (*)())list[1 + (n)])(__VA_ARGS__))

static unsigned char data[4096], out[8192];
static ulong session;

static void check(ulong code, const char *what) {
    if (code) {
        fprintf(stderr, "bench: %s: CKR %#lx\n", what, code);
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void digest(void) {
    mechanism m = {0x250, NULL, 0};
    ulong size = sizeof out;
    check(CALL(DIGEST_INIT, session, &m), "C_DigestInit");
    check(CALL(DIGEST, session, data, (ulong)sizeof data, out, &size), "C_Digest");
}

static void encrypt_gcm(ulong key) {
    unsigned char iv[12];
    if (getrandom(iv, sizeof iv, 0) != sizeof iv) exit(1);
    gcm p = {iv, 12, 96, NULL, 0, 128};
    mechanism m = {0x1087, &p, sizeof p};
    ulong size = sizeof out;
    check(CALL(ENCRYPT_INIT, session, &m, key), "C_EncryptInit");
    check(CALL(ENCRYPT, session, data, (ulong)sizeof data, out, &size), "C_Encrypt");
}

static void encrypt_cbc(ulong key) {
    unsigned char iv[16] = {1};
    mechanism m = {0x1082, iv, 16};
    ulong size = sizeof out;
    check(CALL(ENCRYPT_INIT, session, &m, key), "C_EncryptInit");
    check(CALL(ENCRYPT, session, data, (ulong)sizeof data, out, &size), "C_Encrypt");
}

static void sign(ulong kind, ulong key) {
    mechanism m = {kind, NULL, 0};
    ulong size = sizeof out;
    check(CALL(SIGN_INIT, session, &m, key), "C_SignInit");
    check(CALL(SIGN, session, data, 64UL, out, &size), "C_Sign");
}

/* The same by OpenSSL itself: one context, whose IV is set anew for each message. */
static void bare_cbc(void *library) {
    static void *context, *(*make)(void), *(*cipher)(void);
    static int (*init)(void *, void *, void *, const void *, void *);
    static int (*update)(void *, void *, int *, void *, int), (*end)(void *, void *, int *);
    static const unsigned char key[32] = {2};
    unsigned char iv[16] = {1};
    int some = 0, rest = 0;
    if (!context) {
        make = dlsym(library, "EVP_CIPHER_CTX_new");
        cipher = dlsym(library, "EVP_aes_256_cbc");
        init = dlsym(library, "EVP_EncryptInit_ex");
        update = dlsym(library, "EVP_EncryptUpdate");
        end = dlsym(library, "EVP_EncryptFinal_ex");
        check(init(context = make(), cipher(), NULL, key, NULL) != 1, "EVP_EncryptInit_ex");
    }
    int fine = init(context, NULL, NULL, NULL, iv) == 1 &&
               update(context, out, &some, data, sizeof data) == 1 && end(context, out + some, &rest) == 1;
    check(!fine, "EVP_Encrypt");
}

static ulong generated(int token, int cbc) {
    mechanism m = {0x1080, NULL, 0};
    ulong size = 32, key = 0, allowed[] = {0x1082, 0x1085};
    unsigned char yes = 1, no = 0, kept = token;
    attribute t[] = {{0x161, &size, sizeof size}, {0x104, &yes, 1}, {0x105, &yes, 1}, {0x103, &yes, 1},
                     {0x162, &no, 1}, {0x1, &kept, 1}, {0x40000600, allowed, sizeof allowed}};
    check(CALL(GENERATE, session, &m, t, cbc && token ? 7UL : 6UL, &key), "C_GenerateKey");
    return key;
}

static ulong pair(int token, int rsa) {
    mechanism m = {rsa ? 0x0 : 0x1040, NULL, 0};
    ulong bits = 2048, public = 0, private = 0;
    unsigned char yes = 1, no = 0, kept = token;
    static const unsigned char curve[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    attribute of = {0x121, &bits, sizeof bits}, on = {0x180, curve, sizeof curve};
    attribute p[] = {rsa ? of : on, {0x10a, &yes, 1}, {0x1, &kept, 1}};
    attribute q[] = {{0x108, &yes, 1}, {0x103, &yes, 1}, {0x162, &no, 1}, {0x1, &kept, 1}};
    check(CALL(PAIR, session, &m, p, 3UL, q, 4UL, &public, &private), "C_GenerateKeyPair");
    return private;
}

int main(int count, char **words) {
    if (count < 6) return 2;
    ulong (*get)(void ***);
    double begun = now();
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    double budget = strtod(words[4], NULL) * 1e6;
    if (library && !strcmp(words[5], "bare")) {
        double first = 0, last;
        long done = -20;
        do {
            if (done == 0) first = now();
            bare_cbc(library);
            last = now();
        } while (++done <= 0 || last - first < budget);
        printf("bare %.1f\n", (last - first) / done);
        return 0;
    }
    if (!library || !(get = (ulong (*)(void ***))dlsym(library, "C_GetFunctionList"))) {
        fprintf(stderr, "bench: %s\n", dlerror());
        return 1;
    }
    check(get(&list), "C_GetFunctionList");
    ulong slots[16], many = 16, slot = strtoul(words[2], NULL, 10);
    check(CALL(INITIALIZE, NULL), "C_Initialize");
    check(CALL(SLOTS, (unsigned char)1, slots, &many), "C_GetSlotList");
    if (slot >= many) return 2;
    check(CALL(OPEN, slots[slot], 6UL, NULL, NULL, &session), "C_OpenSession");
    digest();
    double start = now() - begun;
    if (strcmp(words[3], "-"))
        check(CALL(LOGIN, session, 1UL, (unsigned char *)words[3], (ulong)strlen(words[3])), "C_Login");
    int token = slot != 0;
    for (int n = 5; n < count; n++) {
        const char *what = words[n];
        ulong key = 0;
        if (!strcmp(what, "start")) {
            printf("start %.0f\n", start);
            continue;
        }
        if (!strcmp(what, "gcm") || !strcmp(what, "cbc")) key = generated(token, *what == 'c');
        if (!strcmp(what, "rsa") || !strcmp(what, "p256")) key = pair(token, *what == 'r');
        double first = 0, last;
        long done = -20;
        do {
            if (done == 0) first = now();
            if (!strcmp(what, "gcm")) encrypt_gcm(key);
            else if (!strcmp(what, "cbc")) encrypt_cbc(key);
            else if (!strcmp(what, "sha256")) digest();
            else if (!strcmp(what, "rsa")) sign(0x40, key);
            else if (!strcmp(what, "p256")) sign(0x1044, key);
            else return 2;
            last = now();
        } while (++done <= 0 || last - first < budget);
        printf("%s %.1f\n", what, (last - first) / done);
        if (key) CALL(DESTROY, session, key);
    }
    CALL(FINALIZE, NULL);
    return 0;
}
