#include "model/trial_load.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "core/abort_guard.h"
#include "core/error.h"
#include "core/log.h"
#include "llama-cpp.h"
#include "model/model.h"
#include "model/model_params.h"

namespace apex {
namespace {

constexpr uint32_t kTokens = 512;         // of the context whose graphs are built
constexpr unsigned kTimeLimit = 120;      // seconds: a vocabulary of 250,000 takes half of one
constexpr uint64_t kMemory = 4ull << 30;  // what the child may take beyond what the parent has
constexpr int kPollMs = 20;
constexpr char kLoads = 'L', kRefused = 'R';

// --- in the child -------------------------------------------------------------------------------

void limit_memory() {
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr) return;  // not on this system
    unsigned long long pages = 0;
    const bool known = std::fscanf(file, "%llu", &pages) == 1;
    std::fclose(file);
    if (!known) return;
    const rlim_t bytes = pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + kMemory;
    const rlimit limit{bytes, bytes};
    (void)::setrlimit(RLIMIT_AS, &limit);
}

// A death that nobody hears of but the parent: no handlers of Python's, no core file, no output.
void prepare_to_die_quietly() {
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM, SIGTERM}) {
        ::signal(number, SIG_DFL);
    }
    ::signal(SIGINT, SIG_IGN);  // Ctrl-C goes to the group; the parent decides
    const rlimit no_core{0, 0};
    (void)::setrlimit(RLIMIT_CORE, &no_core);
    const int null = ::open("/dev/null", O_RDWR);
    for (const int standard : {0, 1, 2}) (void)::dup2(null, standard);
    ::alarm(kTimeLimit);
    limit_memory();
}

ModelTraits traits_of(const llama_model* model) {
    ModelTraits traits;
    traits.vocabulary = llama_vocab_type(llama_model_get_vocab(model)) != LLAMA_VOCAB_TYPE_NONE;
    traits.encoder = llama_model_has_encoder(model);
    traits.decoder = llama_model_has_decoder(model);
    return traits;
}

ModelTraits load_without_weights(const std::string& path, const std::string& architecture,
                                 const TrialOptions& options) {
    ggml_backend_dev_t no_devices[] = {nullptr};
    const auto overrides = expert_overrides(architecture, options.expert_used_count);
    llama_model_params params = llama_model_default_params();
    params.devices = no_devices;
    params.n_gpu_layers = 0;
    params.load_mode = LLAMA_LOAD_MODE_NONE;
    params.use_extra_bufts = false;
    params.no_alloc = true;
    params.vocab_only = options.vocab_only;
    params.load_mtp = options.load_mtp;
    if (!overrides.empty()) params.kv_overrides = overrides.data();
    llama_model* model = llama_model_load_from_file(path.c_str(), params);
    if (model == nullptr) fail<ModelError>(last_errors());
    ModelTraits traits = traits_of(model);
    if (options.vocab_only) return traits;
    llama_context_params wanted = llama_context_default_params();
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = kTokens;
    llama_context* context = llama_init_from_model(model, wanted);
    if (context == nullptr) fail<ModelError>(last_errors());
    traits.next_token = !traits.encoder && llama_get_memory(context) != nullptr;
    traits.pooled = llama_pooling_type(context) != LLAMA_POOLING_TYPE_NONE;
    return traits;
}

std::string answer(const std::string& path, const std::string& architecture,
                   const TrialOptions& options) {
    std::string text;
    try {
        drain_log();
        guarded([&] {
            const ModelTraits t = load_without_weights(path, architecture, options);
            text = kLoads;
            for (const bool trait : {t.vocabulary, t.encoder, t.decoder, t.next_token, t.pooled}) {
                text.push_back(trait ? '1' : '0');
            }
        });
    } catch (const std::exception& error) {
        text = kRefused + std::string(error.what());
    }
    return text;
}

[[noreturn]] void run_child(int out, const std::string& path, const std::string& architecture,
                            const TrialOptions& options) {
    prepare_to_die_quietly();
    const std::string text = answer(path, architecture, options);
    size_t done = 0;
    while (done < text.size()) {
        const ssize_t n = ::write(out, text.data() + done, text.size() - done);
        if (n <= 0 && errno != EINTR) break;
        if (n > 0) done += static_cast<size_t>(n);
    }
    ::_exit(0);  // no destructors: this is a copy of somebody else's process
}

// --- in the parent ------------------------------------------------------------------------------

std::string signal_name(int number) {
    switch (number) {
        case SIGSEGV:
            return "segmentation fault";
        case SIGBUS:
            return "bus error";
        case SIGFPE:
            return "division by zero";
        case SIGABRT:
            return "abort";
        case SIGILL:
            return "illegal instruction";
        case SIGALRM:
            return concat("no end within ", kTimeLimit, " seconds");
        default:
            return concat("signal ", number);
    }
}

int wait_for(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

// All that the child writes; false where stop came first.
bool read_answer(int in, const StopFlag* stop, std::string& text) {
    std::array<char, 4096> bytes{};
    for (;;) {
        if (stop != nullptr && stop->is_set()) return false;
        pollfd waiting{in, POLLIN, 0};
        if (::poll(&waiting, 1, kPollMs) <= 0) continue;
        const ssize_t n = ::read(in, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return true;
        text.append(bytes.data(), static_cast<size_t>(n));
    }
}

ModelTraits parse_answer(const std::string& path, const std::string& text, int status) {
    if (text.size() == 6 && text[0] == kLoads) {
        const auto is = [&](size_t i) { return text[i] == '1'; };
        return {is(1), is(2), is(3), is(4), is(5)};
    }
    if (!text.empty() && text[0] == kRefused) {
        fail<ModelError>(path, ": llama.cpp cannot load it: ", text.substr(1));
    }
    const int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    fail<ModelError>(path, ": llama.cpp does not survive loading it (", signal_name(number),
                     " in a trial run): its settings and tensors contradict each other; convert "
                     "or download it again");
}

// Handlers of other libraries run before a fork (OpenBLAS joins its threads there) and do not
// expect two forks at once: the second would wait for threads that are gone.
pid_t fork_alone() {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    return ::fork();
}

ModelTraits run_trial(const std::string& path, const std::string& architecture,
                      const TrialOptions& options, const StopFlag* stop) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail<ModelError>("no pipe: ", std::strerror(errno));
    const pid_t child = fork_alone();
    if (child == 0) run_child(ends[1], path, architecture, options);
    ::close(ends[1]);
    if (child < 0) {
        ::close(ends[0]);
        fail<ModelError>(path, ": no process for its trial run: ", std::strerror(errno));
    }
    std::string text;
    const bool finished = read_answer(ends[0], stop, text);
    ::close(ends[0]);
    if (!finished) (void)::kill(child, SIGKILL);
    const int status = wait_for(child);
    if (!finished) fail<Cancelled>("loading ", path, " was stopped");
    return parse_answer(path, text, status);
}

// What makes it another file or another question.
std::string key_of(const std::string& path, const TrialOptions& options) {
    struct stat info{};
    if (::stat(path.c_str(), &info) != 0) return "";
    return concat(info.st_dev, ' ', info.st_ino, ' ', info.st_size, ' ', info.st_mtim.tv_sec, ' ',
                  info.st_mtim.tv_nsec, ' ', info.st_ctim.tv_sec, ' ', info.st_ctim.tv_nsec, ' ',
                  options.vocab_only, options.load_mtp, options.expert_used_count, ' ', path);
}

}  // namespace

ModelTraits trial_load(const std::string& path, const std::string& architecture,
                       const TrialOptions& options, const std::shared_ptr<const StopFlag>& stop) {
    static std::mutex mutex;
    static std::map<std::string, ModelTraits> known;
    TrialOptions whole = options;
    whole.vocab_only = false;
    const std::string key = key_of(path, options);
    {
        const std::lock_guard<std::mutex> lock(mutex);
        // A load of all but the weights has seen the vocabulary too.
        for (const std::string& answered : {key, key_of(path, whole)}) {
            const auto found = known.find(answered);
            if (found != known.end()) return found->second;
        }
    }
    const ModelTraits traits = run_trial(path, architecture, options, stop.get());
    const std::lock_guard<std::mutex> lock(mutex);
    known.emplace(key, traits);
    return traits;
}

}  // namespace apex
