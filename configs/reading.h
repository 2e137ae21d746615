// What a loader knows half-way: the values so far, where each came from, and everything that was wrong.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "configs/run.pb.h"

namespace conclave::config {

class Reading {
 public:
  Experiment experiment;

  // A fault at `place` ("run.yaml:3:5", "command line") that concerns no known key.
  void add_error(const std::string& place, const std::string& message);
  // A fault of a key. Rules that involve the key should not be checked then: its value isn't known.
  void add_error(const std::string& place, const std::string& key, const std::string& message);
  void mark_faulty(const std::string& key) { faulty_keys_.insert(key); }

  const std::vector<std::string>& errors() const { return errors_; }
  // True if the key, a section around it or a key inside of it has an error.
  bool is_faulty(const std::string& key) const;
  // False once a whole file could not be read: rules that span keys have nothing to stand on then.
  bool is_complete() const { return complete_; }
  void set_incomplete() { complete_ = false; }

  void remember_place(const std::string& key, const std::string& place);
  // For a list that is replaced: forgets where its old elements came from.
  void forget_places_below(const std::string& key);
  // The place of the one among `keys` that was given last; if all are defaults, of the nearest section around
  // the first of them; empty if there is none.
  std::string place_of(const std::vector<std::string>& keys) const;

 private:
  struct Place {
    std::string text;
    int order;
  };
  std::map<std::string, Place> places_;
  int places_remembered_ = 0;
  std::vector<std::string> errors_;
  std::set<std::string> faulty_keys_;
  bool complete_ = true;
};

}  // namespace conclave::config
