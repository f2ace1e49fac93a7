// llama-perplexity's files of a reference's log-probabilities (--kl-divergence-base), for exchange.
//
// "_logits_", i32 n_ctx, i32 n_vocab, i32 n_chunks, i32 tokens[n_chunks * n_ctx] (no BOS put in),
// then one record per scored position, chunk after chunk: f32 scale, f32 min_log_prob and
// n_vocab u16 codes, padded to an even number; ln p = scale * code + min_log_prob. Logits more than
// 16 below the largest are cut off. Source: tools/perplexity/perplexity.cpp of llama.cpp.
#pragma once

#include <string>

#include "scoring/logits_source.h"
#include "scoring/scorer.h"

namespace apex {

class BaseFile {
  public:
    // Reads and checks the header and the size. Throws DataError.
    static std::shared_ptr<const BaseFile> open(const std::string& path);
    ~BaseFile();
    BaseFile(const BaseFile&) = delete;
    BaseFile& operator=(const BaseFile&) = delete;

    const std::string& path() const { return path_; }
    int32_t n_ctx() const { return n_ctx_; }
    int32_t n_vocab() const { return n_vocab_; }
    int32_t n_chunks() const { return n_chunks_; }
    const std::vector<llama_token>& tokens() const { return tokens_; }

    // Log-probabilities of a scored position, counted from the file's first.
    void read_row(int64_t index, float* log_probabilities) const;

  private:
    explicit BaseFile(const std::string& path);
    void read(void* to, size_t size, int64_t offset) const;

    std::string path_;
    int descriptor_;
    int32_t n_ctx_ = 0;
    int32_t n_vocab_ = 0;
    int32_t n_chunks_ = 0;
    int64_t data_offset_ = 0;
    std::vector<llama_token> tokens_;
};

// A base file in the place of the reference, from its chunk first_chunk on.
class BaseFileSource final : public LogitsSource {
  public:
    BaseFileSource(std::shared_ptr<const BaseFile> file, std::shared_ptr<ThreadPool> pool,
                   const ChunkShape& shape, int32_t first_chunk);

    int64_t n_vocab() const override { return file_->n_vocab(); }
    void compute(const Step& step) override;
    const float* row(int32_t i) const override { return rows_.data() + int64_t{i} * n_vocab(); }
    bool is_coded() const override { return true; }

  private:
    std::shared_ptr<const BaseFile> file_;
    std::shared_ptr<ThreadPool> pool_;
    ChunkShape shape_;
    int32_t first_chunk_;
    std::vector<float> rows_;
};

// Writes the reference's rows to a base file at an open descriptor, the header at once.
class BaseFileWriter final : public RowObserver {
  public:
    // tokens are those of all chunks. Throws OutputError. The descriptor stays the caller's.
    BaseFileWriter(int descriptor, const ChunkShape& shape, int32_t n_vocab,
                   const std::vector<llama_token>& tokens);

    void observe(int64_t index, const float* row, int32_t target) override;

  private:
    void write(const void* from, size_t size, int64_t offset) const;

    int descriptor_;
    int32_t n_vocab_;
    int64_t data_offset_;
};

}  // namespace apex
