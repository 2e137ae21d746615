// SentencePiece models (Kudo and Richardson, "SentencePiece", 2018), through its library.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "trainer/data/tokenizer/tokenizer.h"

namespace conclave::data {

// Throws Error if `path` holds no SentencePiece model.
std::unique_ptr<Tokenizer> open_sentencepiece(const std::string& path);

struct SentencePieceTraining {
  std::int64_t vocab_size = 0;
  bool unigram = false;  // else BPE
};

// Learns a model from texts and writes it to `path` (which ends in .model). Every text is kept as it is: no
// normalisation, newlines and all, with bytes for what the vocabulary lacks. Throws Error for texts that are
// missing or too small for the vocabulary.
void train_sentencepiece(std::span<const std::string> texts, const std::string& path,
                         const SentencePieceTraining& training);

}  // namespace conclave::data
