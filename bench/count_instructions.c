/* A plugin for qemu-user: how many instructions of the guest have run at each of its getppid calls.
 *
 *   cc -O2 -shared -fPIC -o count.so count_instructions.c
 *   qemu-aarch64 -plugin ./count.so,out=counts.txt PROGRAM
 *
 * qemu's packages bring no header, so the functions used are declared here, as QEMU's documentation
 * of TCG plugins gives them: version 1 of that interface, QEMU 4.2 to 8. Whole blocks are counted
 * when they are entered; a system call ends its block, so the counts at calls are exact.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ARM64_GETPPID 173

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum { NO_REGISTERS = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int,
                                          void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
                                          void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = 1;

static uint64_t instructions;
static FILE *out;

static void block_runs(unsigned cpu, void *size) {
    (void)cpu;
    instructions += (uintptr_t)size;
}

static void block_translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, block_runs, NO_REGISTERS,
                                         (void *)qemu_plugin_tb_n_insns(block));
}

static void system_call(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2,
                        uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7,
                        uint64_t a8) {
    (void)id, (void)cpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7,
        (void)a8;
    if (number != ARM64_GETPPID) return;
    fprintf(out, "%" PRIu64 "\n", instructions);
    fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int n_arguments, char **arguments) {
    (void)info;
    if (n_arguments != 1 || strncmp(arguments[0], "out=", 4) != 0) {
        fprintf(stderr, "count_instructions: expected one argument, out=FILE\n");
        return 1;
    }
    out = fopen(arguments[0] + 4, "w");
    if (!out) {
        perror(arguments[0] + 4);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, system_call);
    return 0;
}
