/* Hides AVX-512, VNNI and AMX from a program into which it is preloaded: libraries then run their kernels for AVX2.
 *
 * The CPU is told to fault at CPUID, and a handler of SIGSEGV answers in its place. Linux keeps that setting for threads
 * and forks and drops it at exec, after which the preloaded library sets it again. Reads of /proc/cpuinfo are
 * redirected to the file $WITHOUT_VNNI_CPUINFO. `.ci/without_vnni` compiles this file and writes that one. If an
 * emulator answers CPUID (-DEMULATED), only these reads are redirected.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef EMULATED
#define ARCH_SET_CPUID 0x1012 /* of <asm/prctl.h>: with 0, CPUID faults in this thread */
#define BIT(number) (1u << (number))

/* Features in the registers of leaf 7. */
static const uint32_t EBX_7 = BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(30) | BIT(31); /* AVX512 F DQ IFMA CD BW VL */
static const uint32_t ECX_7 = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14); /* AVX512 VBMI VBMI2 VNNI BITALG VPOPCNT */
static const uint32_t EDX_7 = BIT(2) | BIT(3) | BIT(8) | BIT(23) /* AVX512 4VNNIW 4FMAPS VP2INTERSECT FP16 */
                              | BIT(22) | BIT(24) | BIT(25);     /* AMX BF16 TILE INT8 */
static const uint32_t EAX_7_1 = BIT(4) | BIT(5) | BIT(21) | BIT(23); /* AVX-VNNI AVX512-BF16 AMX-FP16 AVX-IFMA */
static const uint32_t EDX_7_1 = BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19); /* AVX-VNNI-INT8 AVX-NE-CONVERT
                                                                                 AMX-COMPLEX AVX-VNNI-INT16 AVX10 */

static int (*next_sigaction)(int, const struct sigaction *, struct sigaction *);
static struct sigaction of_program; /* the program's own action for SIGSEGV */

static void answer_cpuid(greg_t *registers)
{
    uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX];
    uint32_t a = leaf, b, c = subleaf, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && subleaf == 0) {
        b &= ~EBX_7, c &= ~ECX_7, d &= ~EDX_7;
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~EAX_7_1, d &= ~EDX_7_1;
    } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) { /* what AMX and AVX10 are like */
        a = b = c = d = 0;
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2; /* the length of CPUID */
}

static void handle(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (info->si_code == SI_KERNEL && code[0] == 0x0f && code[1] == 0xa2) {
        answer_cpuid(registers);
    } else if (of_program.sa_flags & SA_SIGINFO) {
        of_program.sa_sigaction(number, info, context);
    } else if (of_program.sa_handler != SIG_DFL && of_program.sa_handler != SIG_IGN) {
        of_program.sa_handler(number);
    } else {
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        next_sigaction(SIGSEGV, &fatal, NULL);
        raise(SIGSEGV);
    }
}

__attribute__((constructor)) static void begin(void)
{
    struct sigaction ours = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    next_sigaction = dlsym(RTLD_NEXT, "sigaction");
    next_sigaction(SIGSEGV, &ours, &of_program);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("without_vnni: this machine cannot make CPUID fault\n", stderr);
        _exit(1);
    }
}

/* A program's handler, such as faulthandler's of Python, is called by ours. */
int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    if (!next_sigaction) next_sigaction = dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV) return next_sigaction(number, action, old);
    if (old) *old = of_program;
    if (action) of_program = *action;
    return 0;
}

#endif

static const char *redirected(const char *path)
{
    const char *cpuinfo = getenv("WITHOUT_VNNI_CPUINFO");
    return cpuinfo && !strcmp(path, "/proc/cpuinfo") ? cpuinfo : path;
}

/* `extra`: the parameters before the path, each with a comma; `passed`: their names, likewise. */
#define OPEN(name, extra, passed)                                                            \
    int name(extra const char *path, int flags, ...)                                         \
    {                                                                                        \
        int (*next)(extra const char *, int, ...) = dlsym(RTLD_NEXT, #name);                 \
        va_list rest;                                                                        \
        va_start(rest, flags);                                                               \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;            \
        va_end(rest);                                                                        \
        return next(passed redirected(path), flags, mode);                                   \
    }
#define COMMA ,
OPEN(open, , )
OPEN(open64, , )
OPEN(openat, int folder COMMA, folder COMMA)
OPEN(openat64, int folder COMMA, folder COMMA)

#define FOPEN(name)                                                                          \
    FILE *name(const char *path, const char *mode)                                           \
    {                                                                                        \
        FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, #name);                 \
        return next(redirected(path), mode);                                                 \
    }
FOPEN(fopen)
FOPEN(fopen64)
