// The safetensors files of a Hugging Face model, read piece by piece and converted to fp32 where the reader
// wants them: mapped, and given back to the system. What is in memory at any time is what the reader
// keeps and some megabytes for each thread.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "trainer/checkpoint/safetensors.h"
#include "trainer/interop/tensor_names.h"

namespace conclave {

class ModelFiles {
 public:
  // The files that DIR/model.safetensors.index.json lists; without one model.safetensors, or else every
  // *.safetensors of the directory. Reads the headers alone. Throws Error naming the file and the tensor
  // where an index is no JSON, a file is missing, truncated or damaged, a tensor stands in two files, or in
  // another than the index says.
  explicit ModelFiles(std::filesystem::path directory);

  const std::filesystem::path& directory() const { return directory_; }
  // All tensors together.
  std::int64_t bytes() const;

  // What is to be read: elements [elements.begin, elements.end) of a Conclave tensor, as fp32, into `out` (as
  // many).
  struct Wanted {
    const TensorNames* tensor = nullptr;
    Range elements;
    std::span<float> out;
  };
  // By all threads, while the disk reads what comes next: the more is wanted at once, the better. Throws
  // Error naming the tensor where a piece is missing, has another shape or an element type that is no
  // floating-point type, or holds a NaN or an infinity.
  void read(std::span<const Wanted> wanted) const;

  // Throws Error naming the first tensor that none of `known` is made of, and the first that is missing or of
  // another shape. Reads no values. A head beside tied embeddings is passed over if it equals them, and so
  // are tables of rotary frequencies, which old files have.
  void check_complete(std::span<const TensorNames> known) const;

 private:
  struct Stored {
    const SafetensorsReader* file = nullptr;
    const SafetensorsReader::Entry* entry = nullptr;
  };
  // Elements that lie side by side in a file: of one piece, and not too many.
  struct Part {
    const TensorPiece* piece = nullptr;
    Stored from;
    Range elements;  // of the Conclave tensor
    std::span<float> out;

    std::span<const std::byte> bytes() const;
  };

  void open(const std::string& file);
  void check_against_index(const std::map<std::string, std::string>& file_of_tensor) const;
  const std::vector<TensorPiece>& way_of(const TensorNames& tensor) const;
  // Checked against the shape and type that a piece must have.
  Stored stored(const TensorPiece& piece) const;
  void append_parts(const Wanted& wanted, std::vector<Part>& parts) const;
  static void read_part(const Part& part);
  bool is_copy_of_embedding(const std::string& name) const;

  std::filesystem::path directory_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  std::map<std::string, Stored, std::less<>> tensors_;
};

}  // namespace conclave
